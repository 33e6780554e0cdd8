"""The BITNET_* environment variables, read in this one place."""

import os
from dataclasses import dataclass
from pathlib import Path

from bitnet_numba.errors import ParameterError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Settings:
    """What the environment asks for; ``None`` where it does not say.

    Attributes
    ----------
    isa : str or None
        ``BITNET_ISA``: the instruction set that kernels must use.
    threads : int or None
        ``BITNET_NUM_THREADS``: how many threads share the work.
    seed : int or None
        ``BITNET_SEED``: the seed of sampling.
    model : str or None
        ``BITNET_GGUF``: the model to use where none is named.
    cache_dir : Path or None
        ``BITNET_CACHE_DIR``: where compiled kernels are kept.
    offline : bool
        ``BITNET_OFFLINE`` or ``HF_HUB_OFFLINE``: never ask the network.
    strict : bool
        ``BITNET_STRICT_MODE``: what is suspicious is an error, and no model is corrected.
    correction_policy : Path or None
        ``BITNET_CORRECTION_POLICY``: the file that says how known bad models are corrected.
    allows_corrections : bool
        ``BITNET_ALLOW_RUNTIME_CORRECTIONS``: corrections may be applied.
    fixes_norm_scale : bool
        ``BITNET_FIX_LN_SCALE``: every norm is brought to an RMS of 1.
    in_ci : bool
        ``CI``: this runs unattended, where no correction may change a verdict.
    """

    isa: str | None
    threads: int | None
    seed: int | None
    model: str | None
    cache_dir: Path | None
    offline: bool = False
    strict: bool = False
    correction_policy: Path | None = None
    allows_corrections: bool = False
    fixes_norm_scale: bool = False
    in_ci: bool = False

    def correction_variables(self) -> tuple[str, ...]:
        """Return the names of the correction variables that are set to something that asks for corrections."""
        stated = {
            "BITNET_CORRECTION_POLICY": self.correction_policy is not None,
            "BITNET_ALLOW_RUNTIME_CORRECTIONS": self.allows_corrections,
            "BITNET_FIX_LN_SCALE": self.fixes_norm_scale,
        }
        return tuple(name for name, is_set in stated.items() if is_set)


def read_settings() -> Settings:
    """Read the environment as it is now.

    Raises
    ------
    ParameterError
        If a variable holds something that it cannot mean.
    """
    cache_dir, policy = _text("BITNET_CACHE_DIR"), _text("BITNET_CORRECTION_POLICY")
    return Settings(
        isa=_text("BITNET_ISA"),
        threads=_integer("BITNET_NUM_THREADS", minimum=1),
        seed=_integer("BITNET_SEED", minimum=0),
        model=_text("BITNET_GGUF"),
        cache_dir=Path(cache_dir) if cache_dir else None,
        offline=_truth("BITNET_OFFLINE") or (_text("HF_HUB_OFFLINE") or "").lower() in _TRUE,
        strict=_truth("BITNET_STRICT_MODE"),
        correction_policy=Path(policy) if policy else None,
        allows_corrections=_truth("BITNET_ALLOW_RUNTIME_CORRECTIONS"),
        fixes_norm_scale=_truth("BITNET_FIX_LN_SCALE"),
        in_ci=(_text("CI") or "no").lower() not in _FALSE,  # some systems put their name there
    )


def _text(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _truth(name: str) -> bool:
    text = (_text(name) or "no").lower()
    if text not in _TRUE | _FALSE:
        raise ParameterError(f"{name}={text}: expected 1, true, yes, on, or 0, false, no, off; correct or unset it")
    return text in _TRUE


def _integer(name: str, minimum: int) -> int | None:
    text = _text(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < minimum:
        raise ParameterError(f"{name}={text}: expected a whole number of at least {minimum}; correct or unset it")
    return int(text)

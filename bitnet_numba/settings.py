"""The BITNET_* environment variables; no other module obeys them, and receipts quote them."""

import os
from dataclasses import dataclass
from pathlib import Path

from bitnet_numba.declare import options_of
from bitnet_numba.errors import ParameterError
from bitnet_numba.options import LoadOptions, SamplingParams

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Settings:
    """What the environment says; ``None`` or false where it does not say."""

    isa: str | None  # BITNET_ISA: instruction set that kernels must use
    threads: int | None  # BITNET_NUM_THREADS
    seed: int | None  # BITNET_SEED
    model: str | None  # BITNET_GGUF: model to use if none is named
    cache_dir: Path | None  # BITNET_CACHE_DIR: where compiled kernels are kept
    offline: bool = False  # BITNET_OFFLINE or HF_HUB_OFFLINE: do not use the network
    strict: bool = False  # BITNET_STRICT_MODE: what is suspicious is an error, and no model is corrected
    correction_policy: Path | None = None  # BITNET_CORRECTION_POLICY: how known bad models are corrected
    allows_corrections: bool = False  # BITNET_ALLOW_RUNTIME_CORRECTIONS
    fixes_norm_scale: bool = False  # BITNET_FIX_LN_SCALE: bring every norm to an RMS of 1
    in_ci: bool = False  # CI: nobody watches, so no correction may change a verdict

    def correction_variables(self) -> tuple[str, ...]:
        """Return the names of the variables that ask for corrections."""
        stated = {
            "BITNET_CORRECTION_POLICY": self.correction_policy is not None,
            "BITNET_ALLOW_RUNTIME_CORRECTIONS": self.allows_corrections,
            "BITNET_FIX_LN_SCALE": self.fixes_norm_scale,
        }
        return tuple(name for name, is_set in stated.items() if is_set)


def read_settings() -> Settings:
    """Read the environment as it is now; ParameterError if a variable holds a value that it does not take."""
    cache_dir, policy = _text("BITNET_CACHE_DIR"), _text("BITNET_CORRECTION_POLICY")
    return Settings(
        isa=_text("BITNET_ISA"),
        threads=_number(LoadOptions, "threads"),
        seed=_number(SamplingParams, "seed"),
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


def _number(kind: type, name: str) -> int | None:
    """Read the variable of an option, in the option's range."""
    declared = options_of(kind)[name]
    text = _text(declared.variable)
    if text is None:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) < 100  # Python refuses to read thousands of digits
    number: int = declared.checked(declared.variable, int(text) if is_number else text, "correct or unset it")
    return number

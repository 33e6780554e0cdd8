"""The BITNET_* environment variables, read in this one place."""

import os
from dataclasses import dataclass
from pathlib import Path

from bitnet_numba.errors import ParameterError


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
    """

    isa: str | None
    threads: int | None
    seed: int | None
    model: str | None
    cache_dir: Path | None
    offline: bool


def read_settings() -> Settings:
    """Read the environment as it is now.

    Raises
    ------
    ParameterError
        If a variable holds something that it cannot mean.
    """
    cache_dir = _text("BITNET_CACHE_DIR")
    return Settings(
        isa=_text("BITNET_ISA"),
        threads=_integer("BITNET_NUM_THREADS", minimum=1),
        seed=_integer("BITNET_SEED", minimum=0),
        model=_text("BITNET_GGUF"),
        cache_dir=Path(cache_dir) if cache_dir else None,
        offline=_truthy("BITNET_OFFLINE") or _truthy("HF_HUB_OFFLINE"),
    )


def _text(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _truthy(name: str) -> bool:
    return (_text(name) or "").lower() in ("1", "true", "yes", "on")


def _integer(name: str, minimum: int) -> int | None:
    text = _text(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < minimum:
        raise ParameterError(f"{name}={text}: expected a whole number of at least {minimum}; correct or unset it")
    return int(text)

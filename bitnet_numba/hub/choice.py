"""Which files of a repository are the model."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from bitnet_numba.errors import BitNetError

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
BESIDE_WEIGHTS = frozenset(
    {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
)


def choose_files(names: Sequence[str], place: str) -> list[str]:
    """Choose what makes the model: one GGUF file, the files of a Hugging Face directory, or nothing.

    Of several GGUF files, the one with ``i2_s`` in its name is taken.

    Parameters
    ----------
    names : sequence of str
        All files, as paths inside the repository.
    place : str
        The repository, for messages.

    Raises
    ------
    BitNetError
        If there is more than one model.
    """
    ggufs = [name for name in names if name.endswith(".gguf")]
    if len(ggufs) > 1:
        ggufs = [name for name in ggufs if "i2_s" in PurePosixPath(name).name.lower()] or ggufs
    if len(ggufs) > 1:
        shown = ", ".join(sorted(ggufs)[:8])
        raise BitNetError(f"{place}: holds {len(ggufs)} GGUF files ({shown}); choose one with --file or ':file'")
    if ggufs:
        return ggufs
    weights = sorted(name for name in names if WEIGHTS.fullmatch(name))
    if "config.json" not in names or not weights:
        return []
    return sorted(BESIDE_WEIGHTS.intersection(names)) + weights

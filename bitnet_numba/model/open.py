"""Opener of models by name: a path, a model of the hub in the cache, or the embedded one."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from bitnet_numba.demo import demo_model_path
from bitnet_numba.errors import BitNetError
from bitnet_numba.files import exists
from bitnet_numba.hub.cache import cached_model
from bitnet_numba.model.gguf_source import GGUFSource
from bitnet_numba.model.hf_source import HuggingFaceSource
from bitnet_numba.model.source import ModelSource
from bitnet_numba.settings import read_settings

_NAMES: Final = "name a .gguf file or a directory with config.json, or leave it out for the demo"
_ADDRESS: Final = re.compile(r"https?://((www\.)?(huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+))?", re.ASCII)


def open_source(model: str | Path | None, tokenizer: Path | None = None) -> ModelSource:
    """Open a model by name, without loading its weights; ``tokenizer`` is a file to use instead of the model's own.

    The name is a GGUF file, a Hugging Face directory, ``org/name[@revision][:file]`` for a model of the hub that lies
    in the cache, ``demo``, or None: what ``BITNET_GGUF`` names, else the embedded model.
    """
    path = model_path(model)
    return HuggingFaceSource(path, tokenizer) if path.is_dir() else GGUFSource(path, tokenizer)


def model_path(model: str | Path | None) -> Path:
    """Return the file or directory of a model by the name that :func:`open_source` takes."""
    name = model if model is not None else read_settings().model
    if name is None or str(name) == "demo":
        return demo_model_path()
    if not str(name).strip():
        raise BitNetError(f"the model's name is empty; {_NAMES}")
    address = _ADDRESS.match(str(name))
    if address is not None:
        on_hub = address["repo"] and f"fetch it with 'bitnet-numba pull {address['repo']}'"
        raise BitNetError(f"{name}: is an address, not a file; {on_hub or 'download it and name the file'}")
    path = Path(name)
    with suppress(RuntimeError):  # "~user" of a user that does not exist
        path = path.expanduser()
    if path.is_dir():
        _refuse_folder_of_files(path)
    found = path if exists(path) else cached_model(str(name))
    if found is None:
        raise BitNetError(f"{name}: no such model; {_NAMES}")
    return found


def _refuse_folder_of_files(path: Path) -> None:
    """Refuse a folder that holds GGUF files and no checkpoint: which one is meant is not guessed."""
    ggufs = sorted(found.name for found in path.glob("*.gguf"))
    if ggufs and not (path / "config.json").exists():
        more = f", or one of {len(ggufs) - 1:,} more" if len(ggufs) > 1 else ""
        raise BitNetError(f"{path}: is a folder without config.json; name the file in it: {path / ggufs[0]}{more}")

"""Opener of models by name: a path, a model of the hub in the cache, or the embedded one."""

from contextlib import suppress
from pathlib import Path

from bitnet_numba.demo import demo_model_path
from bitnet_numba.errors import BitNetError
from bitnet_numba.files import exists
from bitnet_numba.hub.cache import cached_model
from bitnet_numba.model.gguf_source import GGUFSource
from bitnet_numba.model.hf_source import HuggingFaceSource
from bitnet_numba.model.source import ModelSource
from bitnet_numba.settings import read_settings


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
    path = Path(name)
    with suppress(RuntimeError):  # "~user" of a user that does not exist
        path = path.expanduser()
    found = path if exists(path) else cached_model(str(name))
    if found is None:
        raise BitNetError(
            f"{name}: no such model; name a .gguf file or a directory with config.json, or leave it out for the demo"
        )
    return found

"""Models on either backend, behind the protocol of backends; the fixtures in ``conftest.py`` hand them out."""

from pathlib import Path
from typing import Any

from bitnet_numba import LanguageModel
from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.backends.protocol import Backend
from bitnet_numba.generate.load import BackendName, load_model
from bitnet_numba.model.open import open_source
from tests.generate.running import cpu_backend

KINDS = ("cpu", "numpy")


def load(kind: str, path: Path, **options: Any) -> Backend[Any]:
    """Load a model file with the whole context that it was trained for; ``options`` as ``cpu_backend`` takes them."""
    if kind == "cpu":
        return cpu_backend(path, **options)
    return NumPyBackend(open_source(path), kv_type=options.get("kv_type", "f16"))


def load_demo(kind: BackendName) -> LanguageModel:
    """Load the embedded model."""
    return load_model(open_source("demo"), backend=kind)

"""Load a model into the NumPy backend."""

from typing import Protocol

from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.model.source import ModelSource


class Options(Protocol):
    """The loading options that this backend has; it runs on one thread and computes all logits."""

    @property
    def kv_type(self) -> str: ...
    @property
    def max_context(self) -> int | None: ...


def load_backend(source: ModelSource, options: Options) -> NumPyBackend:
    """Read a model's weights; raises what reading them does."""
    return NumPyBackend(source, kv_type=options.kv_type, max_context=options.max_context)

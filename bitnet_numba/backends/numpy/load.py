"""Load a model into the NumPy backend, which has one thread, one head mode and no instruction sets."""

from typing import Protocol

from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.model.source import ModelSource


class Options(Protocol):
    """The loading options that matter here."""

    @property
    def kv_type(self) -> str: ...
    def context_of(self, trained: int) -> int: ...


def load_backend(source: ModelSource, options: Options) -> NumPyBackend:
    """Return a backend; raises what reading the weights does."""
    context = options.context_of(source.config.max_seq_len)
    return NumPyBackend(source, kv_type=options.kv_type, max_context=context)

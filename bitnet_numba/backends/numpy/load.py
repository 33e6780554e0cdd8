"""Load a model into the NumPy backend, which has one thread, one head mode and no instruction sets."""

from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.model.source import ModelSource
from bitnet_numba.options import LoadOptions


def load_backend(source: ModelSource, options: LoadOptions) -> NumPyBackend:
    """Return a backend; raises what reading the weights does."""
    context = options.context_of(source.config.max_seq_len)
    return NumPyBackend(source, kv_type=options.kv_type, max_context=context)

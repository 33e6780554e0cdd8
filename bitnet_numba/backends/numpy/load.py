"""Load a model into the NumPy backend, which runs on one thread and computes all logits."""

from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.model.source import ModelSource
from bitnet_numba.options import LoadOptions


def load_backend(source: ModelSource, options: LoadOptions) -> NumPyBackend:
    """Read a model's weights; raises what reading them does."""
    return NumPyBackend(source, kv_type=options.kv_type, max_context=options.max_context)

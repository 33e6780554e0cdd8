"""Facts of a loaded model and the memory that it takes, as ``info`` shows them and programs read them."""

from typing import Any

from bitnet_numba.backends.protocol import Backend
from bitnet_numba.model.describe import model_facts
from bitnet_numba.model.source import ModelSource

Facts = dict[str, dict[str, Any]]


def describe(source: ModelSource, backend: Backend[Any], chat_template: str | None, prefix_pages: int) -> Facts:
    """Return facts by section: ``model``, and ``memory`` in bytes."""
    return {"model": model_facts(source, chat_template), "memory": backend.memory(prefix_pages)}

"""From a name to a model that runs, in the order that takes the least time."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_numba.backends.cpu.memory import Reserve
from bitnet_numba.backends.cpu.weight_bytes import packed_bytes
from bitnet_numba.model.open import open_source
from bitnet_numba.model.source import ModelSource

if TYPE_CHECKING:
    from bitnet_numba.backends.cpu.candidates import HeadType
    from bitnet_numba.backends.cpu.kv_cache import KVType
    from bitnet_numba.generate.language_model import LanguageModel


def load_model(
    model: str | Path | None = None,
    *,
    threads: int | None = None,
    kv_type: "KVType" = "f16",
    max_context: int | None = None,
    chat_template: str | None = None,
    head: "HeadType" = "exact",
    kept_prefixes: int = 4,
    open_model: Callable[[str | Path | None], ModelSource] = open_source,
) -> "LanguageModel":
    """Load a model; :func:`bitnet_numba.load` says what the other arguments mean.

    Parameters
    ----------
    open_model : callable
        What opens the model's files by name.

    Raises
    ------
    BitNetError
        If the model cannot be read or served, or an argument is out of range.
    """
    started = time.perf_counter()
    source = open_model(model)
    reserve = Reserve(packed_bytes(source, with_int8_copy=head == "exact"))
    from bitnet_numba.generate.assemble import assemble  # here: pages are found while Numba is imported

    return assemble(
        source,
        reserve,
        started,
        threads=threads,
        kv_type=kv_type,
        max_context=max_context,
        chat_template=chat_template,
        head=head,
        kept_prefixes=kept_prefixes,
    )

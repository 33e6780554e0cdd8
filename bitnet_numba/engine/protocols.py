"""What generation asks of a transformer and of a tokenizer."""

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.engine.batch import Piece
from bitnet_numba.engine.config import ModelConfig
from bitnet_numba.engine.head import HeadType, Rows, Screening


class Page(Protocol):
    """A piece of a cache's memory."""

    @property
    def nbytes(self) -> int: ...


class Cache(Protocol):
    """What a transformer has read of one sequence; see :class:`bitnet_numba.engine.cache.KVCache`."""

    @property
    def length(self) -> int: ...
    @property
    def pages(self) -> Sequence[Page]:
        """Its memory, in pages of one size, which caches share."""
        ...

    def truncate(self, length: int) -> None: ...
    def fork(self, capacity: int, length: int) -> Self: ...
    def resize(self, capacity: int) -> None: ...


CacheT = TypeVar("CacheT", bound=Cache)


class Transformer(Protocol[CacheT]):
    """A model that turns tokens into logits, and keeps what it has read in a cache."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def head(self) -> HeadType: ...

    def new_cache(self, n_positions: int) -> CacheT:
        """Make room for a sequence; ResourceError where memory does not allow it."""
        ...

    def forward_batch(self, pieces: Sequence[Piece[CacheT]]) -> tuple[Rows, list[Screening]]:
        """Read tokens behind what their caches hold, at most ``MAX_CHUNK`` of them.

        Logits come back, in memory of their own, and what is known of those that were left out, for each row.
        """
        ...

    def kernel_counts(self) -> NDArray[np.int64]:
        """How often each of ``kernels.jit.KERNELS`` has run so far, as they count themselves."""
        ...

    def close(self) -> None: ...


class StreamDecoder(Protocol):
    """Text of tokens that come one by one; bytes of an unfinished character wait."""

    def push(self, token_id: int, /) -> str: ...
    def finish(self) -> str: ...


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def eos_ids(self) -> frozenset[int]: ...

    def encode(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]: ...
    def decode(self, ids: Sequence[int], /) -> str: ...
    def stream_decoder(self) -> StreamDecoder: ...

"""What generation asks of a transformer and of a tokenizer."""

from collections.abc import Sequence
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.engine.config import ModelConfig
from bitnet_numba.engine.head import HeadType, NeededLogits


class Cache(Protocol):
    """What a transformer has read of one sequence; see :class:`bitnet_numba.engine.cache.KVCache`."""

    @property
    def length(self) -> int: ...
    @property
    def pages(self) -> Sequence[object]:
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
    @property
    def rescored_rows(self) -> int: ...

    def new_cache(self, n_positions: int) -> CacheT:
        """Make room for a sequence; ResourceError where memory does not allow it."""
        ...

    def forward(
        self,
        tokens: NDArray[np.int32],
        cache: CacheT,
        logits: Literal["last", "all", "none"] = "last",
        *,
        needed: NeededLogits | None = None,
    ) -> NDArray[np.float32]:
        """Read tokens behind what the cache holds; a fresh ``float32[1, n_tokens or 0, vocab_size]`` comes back.

        Logits of which not all are ``needed`` may be minus infinity.
        """
        ...

    def kernel_counts(self) -> dict[str, int]:
        """How often each kernel has run so far, as the kernels themselves counted."""
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

"""One transformer that several Python threads may use at the same time."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.protocol import CacheT, Transformer
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.generate.prefix_cache import PrefixStore, most_pages
from bitnet_numba.generate.request import Request, Work
from bitnet_numba.generate.scheduler import Scheduler

ItemT = TypeVar("ItemT")


class SharedTransformer(Generic[CacheT]):
    """Steps of several sequences, each with a cache of its own; those that are asked for together are taken together.

    Parameters
    ----------
    transformer : Transformer
        From now on used and closed by this object alone.
    max_context : int, optional
        The most positions of a sequence; by default ``transformer.config.max_seq_len``.
    kept_prefixes : int
        How many of the last sequences are kept, so that what begins alike is not read again: together at most as many
        pages as a sequence of the whole context has, but one each.

    Raises
    ------
    ParameterError
        If the model was not made for so long a context.
    """

    def __init__(
        self, transformer: Transformer[CacheT], max_context: int | None = None, kept_prefixes: int = 4
    ) -> None:
        longest = transformer.config.max_seq_len
        self.max_context = longest if max_context is None else max_context
        if not 1 <= self.max_context <= longest:
            raise ParameterError(f"max_context={max_context}: expected 1 to {longest:,}, the model's own context")
        self.config = transformer.config
        self.threads = transformer.threads
        self.isa = transformer.isa
        self.head = transformer.head
        self._transformer = transformer
        self._scheduler = Scheduler(transformer)
        self._prefixes = PrefixStore(self._allocate, kept_prefixes, most_pages(kept_prefixes, self.max_context))

    @property
    def kept_bytes(self) -> int:
        """Bytes of keys and values that are kept of sequences that have ended."""
        return self._prefixes.n_bytes

    def check_fits(self, n_tokens: int) -> None:
        """Raise ResourceError unless ``n_tokens`` can be read in one sequence."""
        if n_tokens > self.max_context:
            longest = self.config.max_seq_len
            more = f" or raise max_context, up to {longest:,}" if self.max_context < longest else ""
            raise ResourceError(
                f"the prompt has {n_tokens:,} tokens, the context holds {self.max_context:,}: shorten it{more}"
            )

    def new_cache(self, n_positions: int) -> CacheT:
        """Allocate what a sequence of ``n_positions`` needs.

        Raises
        ------
        ResourceError
            If memory does not allow it, even with nothing kept of other sequences.
        """
        return self._prefixes.new_cache(n_positions)

    def begin(self, token_ids: Sequence[int], n_positions: int) -> CacheT:
        """Allocate what a sequence that begins with ``token_ids`` needs; as many of these as are kept are read already.

        At least the last one is not.

        Raises
        ------
        ResourceError
            If memory does not allow it, even with nothing kept of other sequences.
        """
        return self._prefixes.begin(token_ids, n_positions)

    def keep(self, token_ids: Sequence[int], cache: CacheT) -> None:
        """Keep what was read of a sequence that has ended: at most ``token_ids``; nobody else may use the cache."""
        self._prefixes.keep(token_ids, cache)

    def forward(
        self,
        tokens: NDArray[np.int32],
        cache: CacheT,
        work: Work,
        logits: Literal["last", "all", "none"] = "last",
    ) -> NDArray[np.float32]:
        """Read ``int32[n_tokens]`` into the cache and add what this took to ``work``; all logits are exact.

        Returns
        -------
        float32[1, vocab_size], float32[n_tokens, vocab_size] or float32[0, vocab_size]
            For ``logits`` of ``"last"``, ``"all"`` and ``"none"``; the caller's own.

        Raises
        ------
        BitNetError
            If the model was closed.
        """
        n_logits = {"last": 1, "all": tokens.size, "none": 0}[logits]
        request = Request(tokens, cache, work, n_logits)
        self._scheduler.read([request])
        return request.logits()

    def read(self, requests: Sequence[Request[CacheT]]) -> list[Request[CacheT]]:
        """Go on with at least one request until some are done, and return these; give the others again to go on.

        Raises
        ------
        BitNetError
            If the model was closed.
        """
        return self._scheduler.read(requests)

    def run(self, events: Iterable[Request[CacheT] | ItemT]) -> Iterator[ItemT]:
        """Read each request among some events before the next one, and give out the others.

        Raises
        ------
        BitNetError
            If the model was closed.
        """
        for event in events:
            if isinstance(event, Request):
                self._scheduler.read([event])
            else:
                yield event

    def close(self) -> None:
        """Wait for the step that runs, if any, and give threads and memory back; later steps are refused."""
        self._scheduler.close()
        self._prefixes.close()

    def _allocate(self, n_positions: int) -> CacheT:
        self._scheduler.check_open()
        return self._transformer.new_cache(n_positions)

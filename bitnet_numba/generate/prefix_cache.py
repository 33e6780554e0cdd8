"""The prefix cache: KV caches of recent sequences, reused by new ones whose prompts share a prefix with them."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import numpy.typing as npt

from bitnet_numba.after_fork import register_for_forks
from bitnet_numba.backends.protocol import PAGE_POSITIONS, CacheT
from bitnet_numba.errors import ResourceError

MIN_SHARED_TOKENS = 8  # a shorter prefix is computed in less time than the page that holds it is copied


def max_prefix_pages(max_sequences: int, max_context: int) -> int:
    """Return how many pages cached prefixes may hold: those of one full context, but at least one each."""
    return max(max_sequences, -(-max_context // PAGE_POSITIONS)) if max_sequences else 0


@dataclass(frozen=True, eq=False, slots=True)
class _Entry(Generic[CacheT]):
    token_ids: npt.NDArray[np.int32]  # whose keys and values the cache holds
    cache: CacheT


class PrefixCache(Generic[CacheT]):
    """Allocates the KV caches of new sequences; a cached prefix need not be computed again.

    It keeps the caches of the last few sequences and drops the least recently used ones first; all of them when memory
    is short. Python threads may share it.

    Parameters
    ----------
    new_cache : callable
        Allocates an empty cache for a number of positions.
    max_sequences : int
        Number of sequences kept, at most.
    max_context : int
        All entries together hold at most the pages of one such context, but one each; shared pages count once.
    """

    def __init__(self, new_cache: Callable[[int], CacheT], max_sequences: int, max_context: int) -> None:
        self._new_cache = new_cache
        self._max_sequences, self._max_pages = max_sequences, max_prefix_pages(max_sequences, max_context)
        self._entries: list[_Entry[CacheT]] = []  # most recently used last
        self._arrived: deque[_Entry[CacheT]] = deque(maxlen=max_sequences)
        self._is_closed = False
        self._lock = threading.Lock()
        register_for_forks(self)

    def after_fork(self) -> None:
        """Make the lock new; if another thread held it, what it was changing is dropped."""
        if self._lock.locked():
            self._entries.clear()
            self._arrived.clear()
        self._lock = threading.Lock()

    def begin(self, token_ids: Sequence[int], capacity: int) -> CacheT:
        """Return a cache for this prompt; if an earlier sequence shares a prefix, its keys and values are in it.

        The last token is never cached, so that its logits are computed. If the prefix is only part of a stored cache,
        fork that; if all of it matches, hand that cache over.

        Raises
        ------
        ResourceError
            If memory does not allow it, even with an empty prefix cache.
        """
        with self._lock:
            self._insert_arrived()
            found, length = self._longest_prefix(np.asarray(token_ids[:-1], np.int32))
            if found is None:
                return self._retry_empty(lambda: self._new_cache(capacity))
            self._entries.remove(found)
            cache = found.cache
            if length < cache.length:
                try:
                    fork = cache.fork(capacity, length)
                except ResourceError:
                    pass  # no room for both: the new sequence takes over the stored cache
                else:
                    self._entries.append(found)
                    return fork
            return self._retry_empty(lambda: _resized(cache, length, capacity))

    def new_cache(self, capacity: int) -> CacheT:
        """Return an empty cache; takes and raises what :meth:`begin` does."""
        with self._lock:
            return self._retry_empty(lambda: self._new_cache(capacity))

    def keep(self, token_ids: Sequence[int], cache: CacheT) -> None:
        """Store a cache that no sequence uses any more and that starts with ``token_ids``, or with the first of them.

        Never waits: an abandoned stream may be collected in a thread that is in one of the other methods.
        """
        length = min(cache.length, len(token_ids))
        cache.truncate(length)
        cache.resize(length)
        self._arrived.append(_Entry(np.array(token_ids[:length], np.int32), cache))
        if self._lock.acquire(blocking=False):  # else the thread that holds the lock, or the next one, inserts it
            try:
                self._insert_arrived()
            finally:
                self._lock.release()

    @property
    def n_bytes(self) -> int:
        """Bytes of all pages in the prefix cache; shared pages count once."""
        with self._lock:
            self._insert_arrived()
            return sum({id(page): page.nbytes for entry in self._entries for page in entry.cache.pages}.values())

    def close(self) -> None:
        """Drop all entries, also those that come later."""
        with self._lock:
            self._is_closed = True
            self._insert_arrived()

    def _insert_arrived(self) -> None:
        """Insert what has arrived, and evict what is too much."""
        while self._arrived:
            self._insert(self._arrived.popleft())
        while self._entries and (
            self._is_closed or len(self._entries) > self._max_sequences or self._n_pages() > self._max_pages
        ):
            del self._entries[0]

    def _insert(self, new: _Entry[CacheT]) -> None:
        """Insert an entry and drop its own prefixes; if a longer entry covers it, mark that as just used."""
        if new.token_ids.size < MIN_SHARED_TOKENS:
            return
        shared = [_n_shared(old.token_ids, new.token_ids) for old in self._entries]
        covering = next((old for old, n in zip(self._entries, shared, strict=True) if n == new.token_ids.size), new)
        self._entries = [
            old for old, n in zip(self._entries, shared, strict=True) if n < old.token_ids.size and old is not covering
        ]
        self._entries.append(covering)

    def _n_pages(self) -> int:
        return len({id(page) for entry in self._entries for page in entry.cache.pages})

    def _longest_prefix(self, token_ids: npt.NDArray[np.int32]) -> tuple[_Entry[CacheT] | None, int]:
        """Return the entry that shares the longest prefix with a prompt, and the prefix's length."""
        lengths = [_n_shared(entry.token_ids, token_ids) for entry in self._entries]
        longest = max(lengths, default=0)
        return (self._entries[lengths.index(longest)], longest) if longest >= MIN_SHARED_TOKENS else (None, 0)

    def _retry_empty(self, allocate: Callable[[], CacheT]) -> CacheT:
        """Allocate a cache; if memory is short, empty the prefix cache and try once more."""
        try:
            return allocate()
        except ResourceError:
            if not self._entries:
                raise
        self._entries.clear()
        return allocate()


def _resized(cache: CacheT, length: int, capacity: int) -> CacheT:
    cache.truncate(length)
    cache.resize(capacity)
    return cache


def _n_shared(first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]) -> int:
    """Return the length of the longest prefix that two token sequences share."""
    n = min(first.size, second.size)
    different = np.flatnonzero(first[:n] != second[:n])
    return int(different[0]) if different.size else n

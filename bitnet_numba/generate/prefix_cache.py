"""What was read of sequences that have ended, for new ones that begin alike."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.attention import BLOCK
from bitnet_numba.backends.protocol import CacheT
from bitnet_numba.errors import ResourceError

LEAST_COMMON = 8  # tokens: fewer are read in less time than the page that holds them is copied in


def most_pages(max_kept: int, max_context: int) -> int:
    """Return how many pages so many kept sequences may have: those of one whole context, but one each."""
    return max(max_kept, -(-max_context // BLOCK)) if max_kept else 0


@dataclass(frozen=True, eq=False, slots=True)
class _Kept(Generic[CacheT]):
    token_ids: npt.NDArray[np.int32]  # that the cache holds
    cache: CacheT


class PrefixStore(Generic[CacheT]):
    """Gives new sequences their caches, which hold already what a sequence before them began with.

    It keeps the caches of the last few sequences, the least recently used being dropped first; all of them when memory
    is short. Several Python threads may use it.

    Parameters
    ----------
    new_cache : callable
        Makes an empty cache for so many positions.
    max_kept : int
        The most sequences that are kept.
    max_pages : int
        The most pages that all kept caches have together; a page that they share counts once.
    """

    def __init__(self, new_cache: Callable[[int], CacheT], max_kept: int, max_pages: int) -> None:
        self._new_cache = new_cache
        self._max_kept, self._max_pages = max_kept, max_pages
        self._kept: list[_Kept[CacheT]] = []  # the most recently used one last
        self._arrived: deque[_Kept[CacheT]] = deque(maxlen=max_kept)
        self._lock = threading.Lock()
        self._is_closed = False

    def begin(self, token_ids: Sequence[int], capacity: int) -> CacheT:
        """Return a cache that holds as many of the first tokens as are kept, but not the last, and has room for more.

        A cache that is kept for other ends of its sequence is forked; one whose tokens are all needed is given away.

        Raises
        ------
        ResourceError
            If the memory is not there, even with nothing kept.
        """
        with self._lock:
            self._sort_in()
            found, length = self._longest(np.asarray(token_ids[:-1], np.int32))
            if found is None:
                return self._with_room(lambda: self._new_cache(capacity))
            self._kept.remove(found)
            cache = found.cache
            if length < cache.length:
                try:
                    fork = cache.fork(capacity, length)
                except ResourceError:
                    pass  # there is no room for both: then the new sequence gets what is there
                else:
                    self._kept.append(found)
                    return fork
            return self._with_room(lambda: _resized(cache, length, capacity))

    def new_cache(self, capacity: int) -> CacheT:
        """Return an empty cache; takes and raises what :meth:`begin` does."""
        with self._lock:
            return self._with_room(lambda: self._new_cache(capacity))

    def keep(self, token_ids: Sequence[int], cache: CacheT) -> None:
        """Take a cache that nobody uses any more, and that holds ``token_ids`` first, or the first of them.

        This never waits: an abandoned stream may be collected in a thread that is just in one of the other methods.
        """
        length = min(cache.length, len(token_ids))
        cache.truncate(length)
        cache.resize(length)
        self._arrived.append(_Kept(np.array(token_ids[:length], np.int32), cache))
        if self._lock.acquire(blocking=False):  # else whoever has the lock, or the next one, sorts it in
            try:
                self._sort_in()
            finally:
                self._lock.release()

    @property
    def n_bytes(self) -> int:
        """Bytes of the pages that are kept; one that several share counts once."""
        with self._lock:
            self._sort_in()
            return sum({id(page): page.nbytes for kept in self._kept for page in kept.cache.pages}.values())

    def close(self) -> None:
        """Drop everything, also what comes later."""
        with self._lock:
            self._is_closed = True
            self._sort_in()

    def _sort_in(self) -> None:
        """Add what has arrived, and drop what is too much."""
        while self._arrived:
            self._add(self._arrived.popleft())
        while self._kept and (self._is_closed or len(self._kept) > self._max_kept or self._n_pages() > self._max_pages):
            del self._kept[0]

    def _add(self, new: _Kept[CacheT]) -> None:
        """Keep one more, without those that are its beginning; or the one whose beginning it is, as just used."""
        if new.token_ids.size < LEAST_COMMON:
            return
        common = [_n_common(old.token_ids, new.token_ids) for old in self._kept]
        whole = next((old for old, n in zip(self._kept, common, strict=True) if n == new.token_ids.size), new)
        self._kept = [
            old for old, n in zip(self._kept, common, strict=True) if n < old.token_ids.size and old is not whole
        ]
        self._kept.append(whole)

    def _n_pages(self) -> int:
        return len({id(page) for kept in self._kept for page in kept.cache.pages})

    def _longest(self, token_ids: npt.NDArray[np.int32]) -> tuple[_Kept[CacheT] | None, int]:
        """Return what has most tokens in common with the beginning of a sequence, and how many."""
        lengths = [_n_common(kept.token_ids, token_ids) for kept in self._kept]
        longest = max(lengths, default=0)
        return (self._kept[lengths.index(longest)], longest) if longest >= LEAST_COMMON else (None, 0)

    def _with_room(self, make: Callable[[], CacheT]) -> CacheT:
        """Make a cache; where memory is short, once more with nothing kept."""
        try:
            return make()
        except ResourceError:
            if not self._kept:
                raise
        self._kept.clear()
        return make()


def _resized(cache: CacheT, length: int, capacity: int) -> CacheT:
    cache.truncate(length)
    cache.resize(capacity)
    return cache


def _n_common(first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]) -> int:
    """Count the tokens that two sequences have in common before the first that differs."""
    n = min(first.size, second.size)
    different = np.flatnonzero(first[:n] != second[:n])
    return int(different[0]) if different.size else n

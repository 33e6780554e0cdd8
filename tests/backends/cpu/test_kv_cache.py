"""The KV cache: its size, its end, and what does not fit."""

import numpy as np
import pytest

from bitnet_numba.backends.cpu import kv_cache as cache_room
from bitnet_numba.backends.cpu import memory
from bitnet_numba.backends.cpu.kv_cache import KVCache, page_table
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.options import KVType


@pytest.mark.parametrize(("kv_type", "n_bytes"), [("f16", 2 * 32), ("f32", 4 * 32), ("int8", 32 + 4)])
def test_holds_whole_pages(kv_type: KVType, n_bytes: int) -> None:
    cache = KVCache(3, 2, 32, 257, kv_type)
    assert cache.capacity == 257
    assert cache.length == 0
    assert cache.n_bytes == 2 * 3 * 2 * 512 * n_bytes
    assert cache.addresses.shape == (1, 2)


def test_large_ones_begin_on_a_page_of_their_own() -> None:
    cache = KVCache(2, 2, 128, 4096, "f16")
    assert cache.n_bytes >= memory.HUGE_PAGE
    assert cache.addresses[0, 0] % memory.HUGE_PAGE == 0
    np.testing.assert_array_equal(np.diff(cache.addresses[0]), cache.n_bytes // 16)


def test_page_table_several_stand_in_rows() -> None:
    short, long = KVCache(1, 1, 32, 10, "f16"), KVCache(1, 1, 32, 600, "f16")
    np.testing.assert_array_equal(
        page_table([short, long]), [[short.addresses[0, 0], 0, 0], long.addresses[0].tolist()]
    )


def test_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_room, "available_bytes", lambda: 10_000_000)
    with pytest.raises(ResourceError, match=r"^KV cache: 100,000 positions need 7\.69 GB, 10 MB are free; ask for a"):
        KVCache(30, 5, 128, 100_000, "f16")
    assert KVCache(10, 5, 128, 64, "f16").capacity == 64


def test_refuses_what_the_system_does_not_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not say how much is free, it is asked."""
    monkeypatch.setattr(cache_room, "available_bytes", lambda: None)
    with pytest.raises(ResourceError, match=r"^KV cache: no memory for "):
        KVCache(512, 2**20, 2**20, 2**24, "f32")


def test_available_memory_is_read() -> None:
    available = memory.available_bytes()
    assert available is None or 2**20 < available < 2**50


@pytest.mark.parametrize("length", [-1, 1])
def test_refuses_cuts_outside(length: int) -> None:
    with pytest.raises(ParameterError, match=f"^cache: cannot cut 0 positions to {length}$"):
        KVCache(1, 1, 32, 10, "f16").truncate(length)


def test_allocated_arrays_are_zeros_of_the_shape_asked_for() -> None:
    for shape in ((3, 5), (3, 2**20)):
        array = memory.allocate(shape, np.uint16, "test")
        assert array.shape == shape
        assert array.dtype == np.uint16
        assert not array.any()


def test_resized_it_keeps_the_pages_that_it_needs() -> None:
    cache = KVCache(1, 1, 32, 600, "f16")
    cache.length = 300
    before = list(cache.pages)
    cache.resize(300)
    assert (cache.capacity, len(cache.pages)) == (300, 2)
    cache.resize(1000)
    assert (cache.capacity, len(cache.pages), cache.length) == (1000, 4, 300)
    assert all(old is new for old, new in zip(before[:2], cache.pages, strict=False))
    np.testing.assert_array_equal(cache.addresses[0], [page.ctypes.data for page in cache.pages])
    with pytest.raises(ParameterError, match=r"^cache: 300 positions are filled, it cannot hold 299$"):
        cache.resize(299)


def test_pages_that_were_shared_once_are_not_written_after_resizing() -> None:
    cache = KVCache(1, 1, 32, 600, "f16")
    cache.length = 600
    fork = cache.fork()
    cache.resize(700)
    cache.truncate(100)
    assert [page in map(id, fork.pages) for page in map(id, cache.pages)] == [False] * 3


def test_nothing_changes_where_there_is_no_memory_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KVCache(1, 1, 32, 10, "f16")
    monkeypatch.setattr(cache_room, "available_bytes", lambda: 1000)
    with pytest.raises(ResourceError, match=r"^KV cache: 300 positions need"):
        cache.resize(300)
    assert (cache.capacity, len(cache.pages)) == (10, 1)


@pytest.mark.parametrize(("length", "capacity"), [(-1, 10), (1, 10), (0, -1)])
def test_refuses_forks_outside(length: int, capacity: int) -> None:
    with pytest.raises(ParameterError, match=f"^cache: cannot begin with {length} of 0 positions and hold {capacity}$"):
        KVCache(1, 1, 32, 10, "f16").fork(capacity, length)

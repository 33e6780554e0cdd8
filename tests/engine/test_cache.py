"""The KV cache: its size, its end, and what does not fit."""

from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.engine import cache as cache_room
from bitnet_numba.engine import memory, weights
from bitnet_numba.engine.cache import KVCache, KVType
from bitnet_numba.engine.gguf_source import GGUFSource
from bitnet_numba.engine.layout import Layout
from bitnet_numba.errors import ParameterError, ResourceError
from tests.tiny import toy_model


@pytest.mark.parametrize(("kv_type", "n_bytes"), [("f16", 2), ("f32", 4)])
def test_holds_whole_tiles(kv_type: KVType, n_bytes: int) -> None:
    cache = KVCache(3, 2, 32, 65, kv_type)
    assert cache.capacity == 65
    assert cache.length == 0
    assert cache.n_bytes == 2 * 3 * 2 * 128 * 32 * n_bytes
    assert cache.arrays.keys.shape == (3, 2, 128 * 32)
    assert not cache.arrays.values.any()


def test_large_ones_begin_on_a_page_of_their_own() -> None:
    cache = KVCache(2, 2, 128, 4096, "f16")
    for array in cache.arrays:
        assert array.nbytes >= memory.HUGE_PAGE
        assert array.ctypes.data % memory.HUGE_PAGE == 0
        assert array.flags.writeable


def test_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_room, "available_bytes", lambda: 10_000_000)
    with pytest.raises(ResourceError, match=r"^KV cache: 100,000 positions need 7\.68 GB, 10 MB are free; ask for a"):
        KVCache(30, 5, 128, 100_000, "f16")
    assert KVCache(30, 5, 128, 64, "f16").capacity == 64


def test_refuses_what_the_system_does_not_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not say how much is free, it is asked."""
    monkeypatch.setattr(cache_room, "available_bytes", lambda: None)
    with pytest.raises(ResourceError, match=r"^KV cache: no memory for "):
        KVCache(512, 2**20, 2**20, 2**24, "f32")


def test_available_memory_is_read() -> None:
    available = memory.available_bytes()
    assert available is None or 2**20 < available < 2**50


def test_refuses_rope_tables_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = GGUFSource(toy_model().gguf().write(tmp_path / "toy.gguf"))
    monkeypatch.setattr(weights, "available_bytes", lambda: 10_000_000)
    with pytest.raises(ResourceError, match=r"toy\.gguf: RoPE for 1,000,000 positions needs .* are free; ask for"):
        weights.load_weights(source, Layout.of(source.config), 1_000_000)


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

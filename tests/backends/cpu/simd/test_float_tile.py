"""Tiles of float sums against single vectors, bit for bit."""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

import bitnet_numba.backends.cpu.simd.float_tile as t
import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.simd.memory import broadcast_from, load_f32, store_f32

Floats = npt.NDArray[np.float32]
ROWS, VECTORS = 3, 2
LENGTH = 40


@numba.njit
def by_tiles(numbers: Any, factors: Floats, sums: Floats, ahead: int | None) -> None:
    tile = t.load_rows(t.zero_rows(ROWS, VECTORS), sums, 0, 16 * VECTORS)
    for i in range(LENGTH):
        vectors = t.load_vectors(tile, numbers, 16 * VECTORS * i, 16, ahead)
        tile = t.add_to_rows(tile, vectors, factors, i, LENGTH)
    t.store_rows(sums, 0, 16 * VECTORS, tile)


@numba.njit
def by_vectors(numbers: Any, factors: Floats, sums: Floats) -> None:
    for row in range(ROWS):
        for vector in range(VECTORS):
            index = 16 * (VECTORS * row + vector)
            total = load_f32(sums, index)
            for i in range(LENGTH):
                number = load_f32(numbers, 16 * (VECTORS * i + vector))
                total = v.fma_f32(number, broadcast_from(factors, LENGTH * row + i), total)
            store_f32(sums, index, total)


@pytest.mark.parametrize("ahead", [None, 512])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int8])
def test_a_tile_sums_as_single_vectors_do(dtype: Any, ahead: int | None) -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=16 * VECTORS * LENGTH) * 50
    numbers = real.astype(np.float16).view(np.uint16) if dtype == np.uint16 else real.astype(dtype)
    factors = rng.normal(size=ROWS * LENGTH).astype(np.float32)
    sums = rng.normal(size=16 * ROWS * VECTORS).astype(np.float32)
    expected = sums.copy()
    by_vectors(numbers, factors, expected)
    by_tiles(numbers, factors, sums, ahead)
    np.testing.assert_array_equal(sums.view(np.uint32), expected.view(np.uint32))


@numba.njit
def distant(numbers: Floats, out: Floats) -> None:
    tile = t.zero_rows(1, VECTORS)
    one = np.ones(1, np.float32)
    t.store_rows(out, 0, 0, t.add_to_rows(tile, t.load_vectors(tile, numbers, 1, 100, None), one, 0, 0))


def test_vectors_may_lie_apart() -> None:
    numbers, out = np.arange(200, dtype=np.float32), np.empty(16 * VECTORS, np.float32)
    distant(numbers, out)
    np.testing.assert_array_equal(out, np.concatenate([numbers[1:17], numbers[101:117]]))

"""Attention over a cache against its twin, and the cache's layout against its own."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.attention.store import (
    POSITIONS_PER_BLOCK,
    POSITIONS_PER_TILE,
    HeadBlock,
    store_position,
)
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import ROUNDING, SEEDS, Floats, assert_within, normal
from tests.backends.cpu.kernels.running import attend, attend_many

CAPACITY = 704  # eleven tiles
EXP_ERROR = 2e-7  # relative, of the kernels' own exponential
DTYPES = st.sampled_from([np.float32, np.uint16, np.int8])
HEAD_DIMS = st.integers(1, 9).map(lambda blocks: 16 * blocks)
BORDERS = [
    n + near for n in (16, POSITIONS_PER_TILE, POSITIONS_PER_BLOCK, 2 * POSITIONS_PER_BLOCK) for near in (-1, 0, 1)
]
LENGTHS = st.sampled_from(BORDERS) | st.integers(1, 700)


def stored(keys: Floats, values: Floats, dtype: Any) -> tuple[HeadBlock, Floats, Floats]:
    """Return a cache of numbers in a format, and the keys and values that they then are."""
    key_bits, key_scales, kept_keys = reference.store_rows(keys, dtype)
    value_bits, value_scales, kept_values = reference.store_rows(values, dtype)
    cache = HeadBlock(reference.block_keys(key_bits), value_bits.reshape(-1), key_scales, value_scales)
    return cache, kept_keys, kept_values


def garbage_after(cache: HeadBlock, n_positions: int, capacity: int = CAPACITY) -> HeadBlock:
    """Cut a cache to ``capacity``, and fill what it holds from ``n_positions`` on with what no result may show."""
    head_dim = cache.values.size // CAPACITY
    garbage = {np.dtype(np.uint16): 0x7E00, np.dtype(np.float32): np.nan, np.dtype(np.int8): 127}[cache.keys.dtype]
    position_of_lane = np.add.outer(np.arange(0, CAPACITY, 16), np.tile(np.arange(16), head_dim)).reshape(-1)
    keys, values = cache.keys.copy(), cache.values.copy()
    keys[position_of_lane >= n_positions] = garbage
    values[n_positions * head_dim :] = garbage
    scales = [scale.copy()[:capacity] for scale in (cache.key_scales, cache.value_scales)]
    for scale in scales:
        scale[n_positions:] = np.nan
    return HeadBlock(keys[: capacity * head_dim], values[: capacity * head_dim], *scales)


def empty_cache(n_positions: int, head_dim: int, dtype: Any) -> HeadBlock:
    """Return a cache of zeros."""
    numbers, scales = np.zeros((2, n_positions * head_dim), dtype), np.zeros((2, n_positions), np.float32)
    if dtype != np.int8:
        scales = scales[:, :0]
    return HeadBlock(*numbers, *scales)


def bound(query: Floats, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> float:
    """Bound the error of a weighted mean of values.

    A score is off by head_dim roundings of its terms' magnitudes. The weight that exp makes of it is off by that,
    doubled because the maximum is subtracted, by the rounding of the difference, and by exp's own error, which may come
    twice (block and merging). Sums of weights and of weighted values take up to 256 steps a block, and 3 to merge it.
    Numerator and denominator both are off by all of this; weights below e**-64 are lost.
    """
    terms = np.abs(keys.astype(np.float64)) @ np.abs(query.astype(np.float64))
    scores = keys.astype(np.float64) @ query
    of_scores = 2 * query.size * ROUNDING * terms.max() + ROUNDING * np.ptp(scores)
    of_sums = (POSITIONS_PER_BLOCK + 3 * (len(keys) / POSITIONS_PER_BLOCK + 1) + 8) * ROUNDING
    lost = len(keys) * float(np.exp(-64.0))
    return float(2 * (np.expm1(of_scores) + 2 * EXP_ERROR + of_sums + lost) * np.abs(values).max())


@given(n=LENGTHS, head_dim=HEAD_DIMS, dtype=DTYPES, sharpness=st.sampled_from([0.0, 0.1, 1.0, 5.0]), seed=SEEDS)
@example(n=700, head_dim=128, dtype=np.uint16, sharpness=1.0, seed=0)
def test_matches_its_twin_whatever_lies_behind(n: int, head_dim: int, dtype: Any, sharpness: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = normal(rng, head_dim, sharpness / np.sqrt(head_dim))
    cache, keys, values = stored(normal(rng, (CAPACITY, head_dim)), normal(rng, (CAPACITY, head_dim)), dtype)
    out = attend(query, garbage_after(cache, n), n)
    expected = reference.attend(query, keys[:n], values[:n])
    assert_within(out, expected, bound(query, keys[:n], values[:n]))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int8])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 255, 256, 257, 513])
def test_later_positions_change_no_bit(n: int, dtype: Any) -> None:
    rng = np.random.default_rng(n)
    query = normal(rng, 32, 0.3)
    cache, _, _ = stored(normal(rng, (CAPACITY, 32)), normal(rng, (CAPACITY, 32)), dtype)
    full = attend(query, cache, n)
    short = attend(query, garbage_after(cache, n, -(-n // POSITIONS_PER_TILE) * POSITIONS_PER_TILE), n)
    np.testing.assert_array_equal(short.view(np.uint32), full.view(np.uint32))


@given(
    n=st.sampled_from([border - 1 for border in BORDERS]) | st.integers(1, 600),
    n_tokens=st.integers(1, 17),
    group=st.integers(1, 6),
    head_dim=HEAD_DIMS,
    dtype=DTYPES,
    seed=SEEDS,
)
@example(n=250, n_tokens=16, group=4, head_dim=128, dtype=np.uint16, seed=0)  # all that a tile holds, over a border
@example(n=256, n_tokens=1, group=4, head_dim=128, dtype=np.uint16, seed=0)
def test_queries_together_have_the_bits_of_each_alone(
    n: int, n_tokens: int, group: int, head_dim: int, dtype: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    queries = normal(rng, (n_tokens * group, head_dim), 2 / np.sqrt(head_dim))
    cache, _, _ = stored(normal(rng, (CAPACITY, head_dim)), normal(rng, (CAPACITY, head_dim)), dtype)
    together, alone = attend_many(queries, garbage_after(cache, n + n_tokens - 1), n, group), np.empty_like(queries)
    for query in range(n_tokens * group):
        limit = n + query // group
        alone[query] = attend(queries[query], garbage_after(cache, limit), limit)
    np.testing.assert_array_equal(together.view(np.uint32), alone.view(np.uint32))


@pytest.mark.parametrize("last", [0, 15, 64, 300, 699])
def test_one_overwhelming_score_selects_its_value(last: int) -> None:
    keys, values = np.zeros((CAPACITY, 16), np.float32), normal(np.random.default_rng(0), (CAPACITY, 16))
    keys[last, 3] = 1e4
    query = np.zeros(16, np.float32)
    query[3] = 1
    out = attend(query, stored(keys, values, np.float32)[0], 700)
    np.testing.assert_array_equal(out, values[last])


@given(head_dim=HEAD_DIMS, dtype=DTYPES, positions=st.permutations(range(2 * POSITIONS_PER_TILE)), seed=SEEDS)
def test_positions_are_stored_where_the_layout_has_them(
    head_dim: int, dtype: Any, positions: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keys, values = (
        normal(rng, (2 * POSITIONS_PER_TILE, head_dim), 1e-3),
        normal(rng, (2 * POSITIONS_PER_TILE, head_dim), 1e3),
    )
    cache = empty_cache(2 * POSITIONS_PER_TILE, head_dim, dtype)
    for position in positions:
        store_position(keys[position].copy(), values[position].copy(), position, cache)
    for array, expected in zip(cache, stored(keys, values, dtype)[0], strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("largest", [0.0, 1e-38, 1e-31, 1e38])
def test_int8_scales_hold_for_every_magnitude(largest: float) -> None:
    cache = empty_cache(POSITIONS_PER_TILE, 16, np.int8)
    value = np.linspace(-largest, largest, 16, dtype=np.float32)
    store_position(np.zeros(16, np.float32), value.copy(), 0, cache)
    kept = cache.values[:16] * cache.value_scales[0]
    assert np.abs(kept - value).max() <= max(1e-30, largest / 127 / 2 * (1 + 1e-6))
    assert not cache.keys.any()

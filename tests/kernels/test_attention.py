"""Attention over a cache against its twin, and the cache's layout against its own."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitnet_numba.kernels import reference
from bitnet_numba.kernels.attention import BLOCK, TILE, attend, store_position
from tests.kernels.inputs import ROUNDING, SEEDS, Floats, assert_within, normal

CAPACITY = 704  # eleven tiles
EXP_ERROR = 2e-7  # relative, of the kernels' own exponential
DTYPES = st.sampled_from([np.float32, np.uint16])
HEAD_DIMS = st.integers(1, 9).map(lambda blocks: 16 * blocks)
BORDERS = [n + near for n in (16, TILE, BLOCK, 2 * BLOCK) for near in (-1, 0, 1)]
LENGTHS = st.sampled_from(BORDERS) | st.integers(1, 700)

Cache = npt.NDArray[Any]


def stored(x: Floats, dtype: Any) -> tuple[Cache, npt.NDArray[Any]]:
    """Return numbers in the cache's format, and what they then are."""
    if dtype == np.uint16:
        halves = x.astype(np.float16)
        return halves.view(np.uint16), halves
    return x, x


def garbage_after(cache: Cache, n_positions: int) -> Cache:
    """Fill every position from ``n_positions`` on with NaN."""
    stale = cache.copy()
    stale[n_positions:] = 0x7E00 if cache.dtype == np.uint16 else np.nan
    return stale


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
    of_sums = (BLOCK + 3 * (len(keys) / BLOCK + 1) + 8) * ROUNDING
    lost = len(keys) * float(np.exp(-64.0))
    return float(2 * (np.expm1(of_scores) + 2 * EXP_ERROR + of_sums + lost) * np.abs(values).max())


@given(n=LENGTHS, head_dim=HEAD_DIMS, dtype=DTYPES, sharpness=st.sampled_from([0.0, 0.1, 1.0, 5.0]), seed=SEEDS)
@example(n=700, head_dim=128, dtype=np.uint16, sharpness=1.0, seed=0)
def test_matches_its_twin_whatever_lies_behind(n: int, head_dim: int, dtype: Any, sharpness: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = normal(rng, head_dim, sharpness / np.sqrt(head_dim))
    key_bits, keys = stored(normal(rng, (CAPACITY, head_dim)), dtype)
    value_bits, values = stored(normal(rng, (CAPACITY, head_dim)), dtype)
    out = np.empty(head_dim, np.float32)
    key_cache = reference.block_keys(garbage_after(key_bits, n))
    attend(query, key_cache, garbage_after(value_bits, n).reshape(-1), n, out)
    expected = reference.attend(query, keys[:n], values[:n])
    assert_within(out, expected, bound(query, keys[:n], values[:n]))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 255, 256, 257, 513])
def test_later_positions_change_no_bit(n: int, dtype: Any) -> None:
    rng = np.random.default_rng(n)
    query = normal(rng, 32, 0.3)
    keys, _ = stored(normal(rng, (CAPACITY, 32)), dtype)
    values, _ = stored(normal(rng, (CAPACITY, 32)), dtype)
    full, short = np.empty(32, np.float32), np.empty(32, np.float32)
    attend(query, reference.block_keys(keys), values.reshape(-1), n, full)
    capacity = (n + TILE - 1) // TILE * TILE
    few_keys, few_values = garbage_after(keys, n)[:capacity], garbage_after(values, n)[:capacity]
    attend(query, reference.block_keys(few_keys), few_values.reshape(-1), n, short)
    np.testing.assert_array_equal(short.view(np.uint32), full.view(np.uint32))


@pytest.mark.parametrize("last", [0, 15, 64, 300, 699])
def test_one_overwhelming_score_selects_its_value(last: int) -> None:
    keys, values = np.zeros((CAPACITY, 16), np.float32), normal(np.random.default_rng(0), (CAPACITY, 16))
    keys[last, 3] = 1e4
    query, out = np.zeros(16, np.float32), np.empty(16, np.float32)
    query[3] = 1
    attend(query, reference.block_keys(keys), values.reshape(-1), 700, out)
    np.testing.assert_array_equal(out, values[last])


@given(head_dim=HEAD_DIMS, dtype=DTYPES, positions=st.permutations(range(2 * TILE)), seed=SEEDS)
def test_positions_are_stored_where_the_layout_has_them(
    head_dim: int, dtype: Any, positions: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keys, values = normal(rng, (2 * TILE, head_dim), 1e-3), normal(rng, (2 * TILE, head_dim), 1e3)
    key_cache, value_cache = np.zeros(keys.size, dtype), np.zeros(keys.size, dtype)
    for position in positions:
        store_position(key_cache, value_cache, position, keys[position], values[position])
    np.testing.assert_array_equal(key_cache, reference.block_keys(stored(keys, dtype)[0]))
    np.testing.assert_array_equal(value_cache, stored(values, dtype)[0].reshape(-1))


ATTEND: dict[str, Any] = {
    "query": np.ones(16, np.float32),
    "keys": np.ones(64 * 16, np.float32),
    "values": np.ones(64 * 16, np.float32),
    "n_positions": 64,
    "out": np.ones(16, np.float32),
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("query", np.ones(0, np.float32)),
        ("query", np.ones(24, np.float32)),
        ("query", np.ones(16, np.float64)),
        ("query", np.ones((1, 16), np.float32)),
        ("query", np.ones(32, np.float32)[::2]),
        ("keys", np.ones(0, np.float32)),
        ("keys", np.ones(32 * 16, np.float32)),
        ("keys", np.ones(64 * 16, np.float64)),
        ("keys", np.ones((64, 16), np.float32)),
        ("keys", np.ones(128 * 16, np.float32)[::2]),
        ("values", np.ones(128 * 16, np.float32)),
        ("values", np.ones(64 * 16, np.uint16)),
        ("values", np.ones(128 * 16, np.float32)[::2]),
        ("n_positions", 0),
        ("n_positions", 65),
        ("out", np.ones(32, np.float32)),
        ("out", np.ones(16, np.uint16)),
        ("out", np.ones(32, np.float32)[::2]),
    ],
)
def test_attend_refuses(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        attend(**{**ATTEND, name: wrong})


STORE: dict[str, Any] = {
    "keys": np.ones(64 * 16, np.uint16),
    "values": np.ones(64 * 16, np.uint16),
    "position": 0,
    "key": np.ones(16, np.float32),
    "value": np.ones(16, np.float32),
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("keys", np.ones(128 * 16, np.uint16)[::2]),
        ("keys", np.ones((64, 16), np.uint16)),
        ("keys", np.ones(32 * 16, np.uint16)),
        ("values", np.ones(64 * 16, np.float32)),
        ("values", np.ones(128 * 16, np.uint16)),
        ("values", np.ones(128 * 16, np.uint16)[::2]),
        ("position", -1),
        ("position", 64),
        ("key", np.ones(0, np.float32)),
        ("key", np.ones(24, np.float32)),
        ("key", np.ones(16, np.float64)),
        ("key", np.ones(32, np.float32)[::2]),
        ("value", np.ones(32, np.float32)),
        ("value", np.ones(16, np.uint16)),
    ],
)
def test_store_refuses(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        store_position(**{**STORE, name: wrong})


def test_store_refuses_a_cache_of_another_format() -> None:
    cache = np.ones(64 * 16, np.float64)
    with pytest.raises(ValueError, match=r"^keys: expected"):
        store_position(**{**STORE, "keys": cache, "values": cache})

"""The kernels and their NumPy twins have the same bits, for any shape and number of threads."""

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.smoothness import kernels
from bitnet_numba.smoothness.quantizer import affine, cut
from tests.smoothness import twins

pytestmark = pytest.mark.slow  # compiling takes some seconds

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 700))


def weights_of(seed: int, shape: tuple[int, int]) -> Any:
    """Draw heavy-tailed weights of any magnitude, with zeros and, now and then, rows of one sign."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(4, shape) * 10.0 ** rng.integers(-6, 6) * (rng.random(shape) < 0.9)
    values[rng.random(shape[0]) < 0.2] **= 2
    return values.astype(np.float32)


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request: pytest.FixtureRequest) -> Any:
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one core")
    numba.set_num_threads(request.param)
    yield
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


def found_ranges(weights: Any, edges: Any) -> tuple[Any, Any]:
    low = np.empty((weights.shape[0], edges.size - 1), np.float32)
    high, bad = np.empty_like(low), np.ones(weights.shape[0], np.uint8)
    kernels.ranges(weights, weights.view(np.uint32), edges, low, high, bad)
    assert not bad.any()
    return low, high


@given(SEEDS, SHAPES, st.sampled_from([None, 32, 128]), st.integers(1, 5), st.booleans(), st.sampled_from([3, 15, 255]))
def test_quantizing_has_the_bits_of_numpy(
    seed: int, shape: Any, size: Any, groups: int, columns: bool, top: int
) -> None:
    weights, cuts = weights_of(seed, shape), cut(shape, groups, size, by_columns=columns)
    low, high = found_ranges(weights, cuts.edges)
    runs = [weights[:, a:b] for a, b in zip(cuts.edges, cuts.edges[1:], strict=False)]
    assert np.array_equal(low, np.stack([np.minimum(run.min(axis=1), 0) for run in runs], axis=1))
    assert np.array_equal(high, np.stack([np.maximum(run.max(axis=1), 0) for run in runs], axis=1))
    scale, zero = affine(low, high, top)
    codes, back = np.empty(shape, np.uint8), np.empty(shape, np.float32)
    sums = np.empty((shape[0], cuts.blocks[-1] + 1, kernels.N_SUMS))
    kernels.quantize(weights, scale, zero, float(top), cuts.edges, cuts.blocks, codes, sums)
    kernels.dequantize(codes, scale, zero, cuts.edges, back)
    twin_codes, twin_back = twins.quantized(weights, scale, zero, top, cuts.edges)
    assert np.array_equal(codes, twin_codes)
    assert np.array_equal(back, twin_back)
    assert np.array_equal(sums, twins.block_sums(weights, twin_back, cuts.edges, cuts.blocks))


@given(SEEDS, SHAPES, st.sampled_from([2, 4, 8]))
def test_packing_is_undone(seed: int, shape: Any, bits: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(np.uint8)
    packed = np.empty((shape[0], -(-shape[1] * bits // 8)), np.uint8)
    kernels.pack(codes, bits, packed)
    assert np.array_equal(packed, twins.packed(codes, bits))
    again = np.empty(shape, np.uint8)
    kernels.unpack(packed, bits, again)
    assert np.array_equal(again, codes)


@given(SEEDS, SHAPES)
def test_magnitudes_have_the_bits_of_numpy(seed: int, shape: Any) -> None:
    weights, sums = weights_of(seed, shape), np.empty(shape[0])
    kernels.magnitudes(weights, sums)
    assert np.array_equal(sums, [twins.lane_sum(np.abs(row.astype(np.float64))) for row in weights])


@given(SEEDS, st.tuples(st.integers(1, 3), st.integers(1, 300)), st.sampled_from([3, 15]))
def test_clip_searches_have_the_bits_of_numpy(seed: int, shape: Any, top: int) -> None:
    weights, cuts = weights_of(seed, shape), cut(shape, 1, 64)
    low, high = found_ranges(weights, cuts.edges)
    ratio = np.empty(low.shape)
    kernels.clip_runs(weights, low, high, float(top), cuts.edges, ratio)
    for row in range(shape[0]):
        for run, (a, b) in enumerate(zip(cuts.edges, cuts.edges[1:], strict=False)):
            assert ratio[row, run] == twins.clip_ratio(weights[row, a:b], low[row, run], high[row, run], top)
    scale, zero = affine(low[:, 0], high[:, 0], top)
    errors = np.empty((shape[0], shape[0]))
    kernels.clip_errors(weights, scale, zero, float(top), errors)
    twin = [[twins.squared_error(w, s, z, top) for s, z in zip(scale, zero, strict=True)] for w in weights]
    assert np.array_equal(errors, twin)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_found(value: float) -> None:
    weights = np.zeros((3, 70), np.float32)
    weights[1, 69] = value
    low = np.empty((3, 1), np.float32)
    high, bad = np.empty_like(low), np.zeros(3, np.uint8)
    kernels.ranges(weights, weights.view(np.uint32), np.array([0, 70]), low, high, bad)
    assert bad.tolist() == [0, 1, 0]

"""The product of 1.6-bit weights that bench/five_trits measures, against the twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.five_trits import CODES, five_trits_worker, pack
from bitnet_numba.kernels import reference
from bitnet_numba.simd import cpu
from tests.kernels.inputs import SEEDS, alone

pytestmark = pytest.mark.skipif(
    not {"avx512vbmi", "avx512vnni"} <= cpu.target_features(), reason="needs avx512vbmi and avx512vnni"
)


@given(blocks=st.integers(1, 3), runs=st.integers(1, 5), seed=SEEDS, fill=st.sampled_from([None, -128, 127]))
def test_equals_the_twin(blocks: int, runs: int, seed: int, fill: int | None) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, (32 * blocks, 160 * runs)).astype(np.int8)
    q = rng.integers(-128, 128, 160 * runs).astype(np.int8)
    if fill is not None:
        q[:] = fill
    out = np.full(32 * blocks, 7, np.int32)
    five_trits_worker(alone(), pack(weights), q, int(q.sum(dtype=np.int64)), out, CODES)
    np.testing.assert_array_equal(out, reference.ternary_product(weights, q[None])[0])

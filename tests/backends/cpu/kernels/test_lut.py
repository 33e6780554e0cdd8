"""The products by table that bench/lut measures, against the twin: integers, so equality."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lut.bytes import ENTRIES, bytes_product
from bench.lut.shuffles import SHUFFLE, SPAN, TABLE_BYTES, shuffles_product
from bitnet_numba.backends.cpu.kernels.ternary.layout import pack_r16
from bitnet_numba.model.config import MAX_SIZE
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import SEEDS
from tests.backends.cpu.kernels.running import pool_of

Codes = npt.NDArray[np.int8]


def by_bytes(weights: Codes, q: Codes, n_threads: int) -> npt.NDArray[np.int32]:
    return product(bytes_product, weights, q, np.zeros((n_threads, ENTRIES), np.int32))


def by_shuffles(weights: Codes, q: Codes, n_threads: int) -> npt.NDArray[np.int32]:
    return product(shuffles_product, weights, q, np.zeros((n_threads, TABLE_BYTES * q.size), np.uint8))


def product(worker: Callable[..., None], weights: Codes, q: Codes, tables: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    out = np.full(len(weights), 7, np.int32)
    packed = pack_r16(reference.pack_i2s(weights))
    with pool_of(len(tables)) as pool:
        pool.run(lambda ctx: worker(ctx, packed, q, int(q.sum(dtype=np.int64)), out, tables))
    return out


PRODUCTS = [by_bytes, *([by_shuffles] if SHUFFLE else [])]


@pytest.mark.parametrize("multiply", PRODUCTS)
@given(
    blocks=st.integers(1, 45),
    runs=st.integers(1, 9),
    seed=SEEDS,
    fill=st.sampled_from([None, -128, 127, 0]),
    n_threads=st.integers(1, 2),
)
def test_equals_the_twin(multiply: Any, blocks: int, runs: int, seed: int, fill: int | None, n_threads: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, (32 * blocks, 128 * runs)).astype(np.int8)
    q = rng.integers(-128, 128, 128 * runs).astype(np.int8)
    if fill is not None:
        q[:] = fill
    np.testing.assert_array_equal(multiply(weights, q, n_threads), reference.ternary_product(weights, q[None])[0])


@pytest.mark.parametrize("multiply", PRODUCTS)
@pytest.mark.parametrize("activation", [-128, 127])
@pytest.mark.parametrize("weight", [-1, 1])
@pytest.mark.parametrize("columns", [SPAN // 4, SPAN // 4 + 128, MAX_SIZE])
def test_the_largest_sums_do_not_overflow(multiply: Any, columns: int, weight: int, activation: int) -> None:
    weights = np.full((32, columns), weight, np.int8)
    sums = multiply(weights, np.full(columns, activation, np.int8), 1)
    np.testing.assert_array_equal(sums, weight * activation * columns)

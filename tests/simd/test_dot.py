"""The integer dot product: every body that this CPU runs, against NumPy."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.settings import read_settings
from bitnet_numba.simd import cpu
from bitnet_numba.simd.dot import BODIES, dot
from bitnet_numba.simd.memory import load_bytes, load_i32, store_i32
from tests.kernels.inputs import SEEDS


def compiled(body: Any) -> Callable[..., None]:
    @numba.njit
    def product(acc: Any, unsigned: Any, signed: Any) -> None:
        store_i32(acc, 0, body(load_i32(acc, 0), load_bytes(unsigned, 0), load_bytes(signed, 0)))

    return product  # type: ignore[no-any-return]


COMPILED_FOR = frozenset(cpu.REQUIRED_FEATURES[cpu.vector_isa()]) if read_settings().isa else cpu.features()
PRODUCTS = {isa: compiled(body) for isa, body in BODIES.items() if COMPILED_FOR.issuperset(cpu.REQUIRED_FEATURES[isa])}
LARGEST_BYTE = {isa: 127 if isa == "neon_dotprod" else 128 for isa in BODIES}


def check(isa: str, acc: npt.NDArray[np.int32], unsigned: npt.NDArray[np.uint8], signed: npt.NDArray[np.int8]) -> None:
    products = unsigned.astype(np.int64) * signed.astype(np.int64)
    expected = acc + products.reshape(16, 4).sum(axis=1)
    PRODUCTS[isa](acc, unsigned, signed)
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize("isa", PRODUCTS)
@given(limit=st.sampled_from([2, 3, 12, 48, 128]), seed=SEEDS)
def test_equals_numpy(isa: str, limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(2**30), 2**30, 16).astype(np.int32)
    unsigned = rng.integers(0, min(limit, LARGEST_BYTE[isa]) + 1, 64).astype(np.uint8)
    check(isa, acc, unsigned, rng.integers(-128, 128, 64).astype(np.int8))


@pytest.mark.parametrize("isa", PRODUCTS)
@pytest.mark.parametrize("unsigned", [0, 2, 128])
@pytest.mark.parametrize("signed", [-128, -1, 127])
def test_extremes_do_not_saturate(isa: str, unsigned: int, signed: int) -> None:
    largest = min(unsigned, LARGEST_BYTE[isa])
    check(isa, np.zeros(16, np.int32), np.full(64, largest, np.uint8), np.full(64, signed, np.int8))


def test_only_a_signed_product_refuses_128() -> None:
    assert (LARGEST_BYTE[cpu.vector_isa()] == 127) == cpu.has_signed_dot()


def test_the_body_is_that_of_the_chosen_instruction_set() -> None:
    assert dot is BODIES[cpu.vector_isa()]
    assert {*BODIES, cpu.TILES} == set(cpu.REQUIRED_FEATURES)

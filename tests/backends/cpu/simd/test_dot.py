"""The integer dot product: every body that this CPU runs, against NumPy."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.dot import BODIES, dot, dot_plain, dot_sse2, dot_ssse3
from bitnet_numba.backends.cpu.simd.memory import load_bytes, load_i32, store_i32
from tests.backends.cpu.kernels.inputs import SEEDS


def compiled(body: Any) -> Callable[..., None]:
    @numba.njit
    def product(acc: Any, unsigned: Any, signed: Any) -> None:
        store_i32(acc, 0, body(load_i32(acc, 0), load_bytes(unsigned, 0), load_bytes(signed, 0)))

    return product  # type: ignore[no-any-return]


TARGET = cpu.target_features()
CHOSEN = {isa: compiled(body) for isa, body in BODIES.items() if TARGET.issuperset(cpu.REQUIRED_FEATURES[isa])}
SSE2 = {"sse2": compiled(dot_sse2)} if cpu.is_x86() else {}
SSSE3 = {"ssse3": compiled(dot_ssse3)} if {"ssse3", "avx"} & TARGET else {}  # AVX implies it
PRODUCTS = CHOSEN | SSE2 | SSSE3 | {"plain": compiled(dot_plain)}
LARGEST_BYTE = {body: 127 if body == "neon_dotprod" else 128 for body in (*BODIES, *PRODUCTS)}


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
    assert {*BODIES, cpu.TILES, cpu.FIVE_TRITS} == set(cpu.REQUIRED_FEATURES)

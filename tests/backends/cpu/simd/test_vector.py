"""Arithmetic on vectors, bit for bit: above all the fused multiply-add that is composed where hardware has none."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.memory import load_bytes, load_f32, load_i32, store_f32, store_i32
from bitnet_numba.backends.cpu.simd.operation import vector_op
from bitnet_numba.backends.cpu.simd.types import I32x16, U8x64

Floats = npt.NDArray[np.float32]

LARGEST = Fraction(2) ** 128
SMALLEST_EXPONENT = -149
DIGITS = 24


# ---- fused multiply-add ----------------------------------------------------------------------------------------------
def fuse(op: Any) -> Callable[[Floats, Floats, Floats], Floats]:
    @numba.njit
    def loop(x: Floats, y: Floats, z: Floats, out: Floats) -> None:
        for i in range(0, x.size, 16):
            store_f32(out, i, op(load_f32(x, i), load_f32(y, i), load_f32(z, i)))

    def run(x: Floats, y: Floats, z: Floats) -> Floats:
        out = np.empty_like(x)
        loop(x, y, z, out)
        return out

    return run


FUSED = ("chosen", "composed")


@functools.cache
def fused(name: str) -> Callable[[Floats, Floats, Floats], Floats]:
    """Compile fma_f32 as this CPU has it, or as one without the instruction composes it."""
    run = fuse(v.fma_f32)
    with pytest.MonkeyPatch.context() as patch:
        if name == "composed":
            patch.setattr(cpu, "has_hardware_floats", lambda: False)
        run(*np.zeros((3, 16), np.float32))
    return run


def floor_log2(x: Fraction) -> int:
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= x else exponent - 1


def nearest_float(exact: Fraction) -> float:
    """Round to the nearest float32, ties to even, as the definition of the format says."""
    if exact == 0:
        return 0.0
    last_digit = Fraction(2) ** max(floor_log2(abs(exact)) - DIGITS + 1, SMALLEST_EXPONENT)
    rounded = round(exact / last_digit) * last_digit  # a fraction's round() goes to even
    return float(rounded) if abs(rounded) < LARGEST else np.copysign(np.inf, float(np.sign(exact.numerator)))


def check_fma(name: str, x: Floats, y: Floats, z: Floats) -> None:
    expected = np.array(
        [
            nearest_float(Fraction(a) * Fraction(b) + Fraction(c))
            for a, b, c in zip(*map(np.ndarray.tolist, (x, y, z)), strict=True)
        ],
        np.float32,
    )
    np.testing.assert_array_equal(fused(name)(x, y, z), expected)


def random_floats(rng: np.random.Generator, n: int, low: int, high: int) -> Floats:
    """Draw floats of every mantissa, with exponents from ``low`` to ``high``."""
    return np.ldexp(rng.uniform(-2, 2, n), rng.integers(low, high + 1, n)).astype(np.float32)


def cancelling(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    """Products whose upper half the addend takes away."""
    x, y = random_floats(rng, n, -20, 20), random_floats(rng, n, -20, 20)
    return x, y, -(x * y)


def halfway(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    """Products halfway between two floats (25 digits, the last of them 1), and addends that just tip the scale."""
    x = (2 * rng.integers(2**11, 2**12, n) + 1).astype(np.float32)  # 13 digits, odd
    y = (2 * rng.integers(2**10, 2**11, n) + 1).astype(np.float32)  # 12 digits, odd: 24 or 25 in all
    tip = np.ldexp(rng.choice([-1.0, 0.0, 1.0], n), rng.integers(-149, -20, n))
    return x, y, tip.astype(np.float32)


def halfway_sums(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    """Addends that lie where the product is half of their last digit, and a little more or less."""
    z = rng.integers(2**23, 2**24, n).astype(np.float32)
    x = (0.5 + rng.choice([-1, 0, 1], n) * 2.0**-24).astype(np.float32)
    y = (1 + rng.choice([-1, 0, 1], n) * 2.0**-23).astype(np.float32) * rng.choice([-1, 1], n).astype(np.float32)
    return x, y, z


def tiny(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    """Results around and below the smallest floats."""
    return random_floats(rng, n, -75, -60), random_floats(rng, n, -80, -70), random_floats(rng, n, -149, -126)


def huge(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    """Results around the largest floats."""
    return random_floats(rng, n, 62, 64), random_floats(rng, n, 62, 63), random_floats(rng, n, 120, 126)


def anything(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    return random_floats(rng, n, -60, 60), random_floats(rng, n, -60, 60), random_floats(rng, n, -125, 125)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("draw", [cancelling, halfway, halfway_sums, tiny, huge, anything])
def test_fma_is_rounded_once(name: str, draw: Callable[..., tuple[Floats, Floats, Floats]]) -> None:
    check_fma(name, *draw(np.random.default_rng(0), 4096))


@pytest.mark.parametrize("name", FUSED)
@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False, width=32)] * 3), min_size=16, max_size=16))
def test_fma_of_any_floats(name: str, triples: list[tuple[float, float, float]]) -> None:
    check_fma(name, *np.array(triples, np.float32).T.copy())


@pytest.mark.parametrize("draw", [cancelling, halfway, halfway_sums, tiny, huge, anything])
def test_composed_fma_has_the_bits_of_the_chosen_one(draw: Callable[..., tuple[Floats, Floats, Floats]]) -> None:
    triple = draw(np.random.default_rng(1), 2**18)
    results = [fused(name)(*triple).view(np.uint32) for name in FUSED]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", FUSED)
def test_fma_of_infinities_nan_and_signed_zeros(name: str) -> None:
    inf, nan = np.inf, np.nan
    triples = [(inf, 1, 1), (1, -inf, 1), (1, 1, inf), (3e38, 3e38, -inf), (inf, 0, 1), (inf, 1, -inf), (nan, 1, 1)]
    triples += [(1, nan, 1), (1, 1, nan), (0, 5, -0.0), (-0.0, 5, -0.0), (1, 1, -1), (-1e-30, 1e-30, 0.0)]
    triples += [(0, 0, 0)] * (16 - len(triples))
    expected = [inf, -inf, inf, -inf, nan, nan, nan, nan, nan, 0.0, -0.0, 0.0, -0.0, 0.0, 0.0, 0.0]
    out = fused(name)(*np.array(triples, np.float32).T.copy())
    np.testing.assert_array_equal(out, np.array(expected, np.float32))
    np.testing.assert_array_equal(np.signbit(out[9:]), np.signbit(expected[9:]))


# ---- other lanes -----------------------------------------------------------------------------------------------------
@numba.njit
def arithmetic(x: Floats, y: Floats, out: Floats) -> None:
    a, b = load_f32(x, 0), load_f32(y, 0)
    store_f32(out[0], 0, v.add_f32(a, b))
    store_f32(out[1], 0, v.sub_f32(a, b))
    store_f32(out[2], 0, v.mul_f32(a, b))
    store_f32(out[3], 0, v.div_f32(a, b))
    store_f32(out[4], 0, v.max_f32(a, b))
    store_f32(out[5], 0, v.min_f32(a, b))
    store_f32(out[6], 0, v.abs_f32(a))
    store_f32(out[7], 0, v.where_greater(a, b, v.broadcast_f32(np.float32(1)), v.zero_f32()))


@given(st.lists(st.tuples(*[st.floats(width=32)] * 2), min_size=16, max_size=16))
def test_each_lane_is_what_numpy_says(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs, np.float32).T.copy()
    out = np.empty((8, 16), np.float32)
    arithmetic(x, y, out)
    with np.errstate(all="ignore"):
        expected = [x + y, x - y, x * y, x / y, np.where(x > y, x, y), np.where(x < y, x, y), np.abs(x), x > y]
    np.testing.assert_array_equal(out, np.array(expected, np.float32))


@numba.njit
def fold(x: Floats, words: Any, count: Any, filler: Any, kept: Floats) -> tuple[Any, Any, Any]:
    store_f32(kept, 0, v.keep_first(load_f32(x, 0), count, filler))
    return v.sum_f32(load_f32(x, 0)), v.largest_f32(load_f32(x, 0)), v.sum_i32(load_i32(words, 0))


@given(count=st.integers(-20, 40), seed=st.integers(0, 2**32 - 1))
def test_lanes_fold_by_a_fixed_tree(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, words = random_floats(rng, 16, -30, 30), rng.integers(-(2**31), 2**31, 16).astype(np.int32)
    kept = np.empty(16, np.float32)
    total, largest, whole = fold(x, words, np.int32(count), np.float32(-7), kept)
    tree = x
    while tree.size > 1:
        tree = tree[: tree.size // 2] + tree[tree.size // 2 :]
    assert total == tree[0]
    assert largest == x.max()
    assert np.int32(whole) == words.sum(dtype=np.int32)
    np.testing.assert_array_equal(kept, np.where(np.arange(16) < count, x, np.float32(-7)))


@numba.njit
def convert(x: Floats, words: Any, rounded: Floats, whole: Any, real: Floats) -> None:
    store_f32(rounded, 0, v.round_f32(load_f32(x, 0)))
    store_i32(whole, 0, v.to_i32(load_f32(x, 0)))
    store_f32(real, 0, v.to_f32(load_i32(words, 0)))


@given(
    st.lists(
        st.floats(-(2**22), 2**22, width=32) | st.integers(-999, 999).map(lambda n: n + 0.5), min_size=16, max_size=16
    )
)
def test_numbers_become_whole_and_real(values: list[float]) -> None:
    x = np.array(values, np.float32)
    words = x.view(np.int32)
    rounded, whole, real = np.empty(16, np.float32), np.empty(16, np.int32), np.empty(16, np.float32)
    convert(x, words, rounded, whole, real)
    np.testing.assert_array_equal(rounded, np.rint(x))
    np.testing.assert_array_equal(whole, np.trunc(x))
    np.testing.assert_array_equal(real, words.astype(np.float32))


@numba.njit
def scaled(x: Floats, whole: Floats, out: Floats) -> None:
    for i in range(0, x.size, 16):
        store_f32(out, i, v.add_to_exponent(load_f32(x, i), load_f32(whole, i)))


@pytest.mark.parametrize("x", [0.7071068, 1.0, 1.4142135, -1.5])
def test_every_power_of_two(x: float) -> None:
    exponents = np.resize(np.arange(-125, 127), 256).astype(np.float32)
    out = np.empty(256, np.float32)
    scaled(np.full(256, x, np.float32), exponents + v.WHOLE, out)
    np.testing.assert_array_equal(out, np.ldexp(np.float32(x), exponents.astype(np.int32)))


@vector_op(I32x16, U8x64)
def as_words(b: Any, x: Any) -> Any:
    return b.bitcast(x, I32x16.llvm)


@numba.njit
def split(codes: Any, pairs: Any, words: Any, shifted: Any) -> None:
    x, w = load_bytes(codes, 0), load_i32(words, 0)
    store_i32(pairs[0], 0, as_words(v.top_bit_pair(x)))
    store_i32(pairs[1], 0, as_words(v.bit_pair_4(x)))
    store_i32(pairs[2], 0, as_words(v.bit_pair_2(x)))
    store_i32(pairs[3], 0, as_words(v.bit_pair_0(x)))
    store_i32(pairs[4], 0, as_words(v.code_6(x)))
    store_i32(pairs[5], 0, as_words(v.code_4(x)))
    store_i32(pairs[6], 0, as_words(v.code_2(x)))
    store_i32(pairs[7], 0, as_words(v.code_0(x)))
    store_i32(shifted[0], 0, v.shift_right_top(w))
    store_i32(shifted[1], 0, v.shift_right_4(w))
    store_i32(shifted[2], 0, v.shift_right_2(w))
    store_i32(shifted[3], 0, v.add_i32(w, v.broadcast_i32(np.int32(2**30))))
    store_i32(shifted[4], 0, v.sub_i32(v.zero_i32(), w))


@pytest.mark.parametrize("quarter", range(4))
def test_every_byte_splits_into_its_bit_pairs(quarter: int) -> None:
    codes = np.arange(64 * quarter, 64 * quarter + 64).astype(np.uint8)
    words = np.random.default_rng(quarter).integers(-(2**31), 2**31, 16).astype(np.int32)
    pairs, shifted = np.empty((8, 16), np.int32), np.empty((5, 16), np.int32)
    split(codes, pairs, words, shifted)
    top = 5 if cpu.has_signed_dot() else 6
    in_place = [codes >> 6 << top, codes & 0x30, codes & 0x0C, codes & 0x03]
    brought_down = [codes >> 6, codes >> 4 & 3, codes >> 2 & 3, codes & 3]
    np.testing.assert_array_equal(pairs.view(np.uint8), in_place + brought_down)
    with np.errstate(over="ignore"):
        expected = [words >> top, words >> 4, words >> 2, words + np.int32(2**30), np.int32(0) - words]
    np.testing.assert_array_equal(shifted, expected)


@given(st.floats(min_value=0, width=32))
def test_the_root_is_correctly_rounded(x: float) -> None:
    assert root(np.float32(x)) == np.sqrt(np.float32(x))


@numba.njit
def root(x: Any) -> Any:
    return v.sqrt_f32(x)

"""Number formats, bit for bit: every half and bfloat16, by instruction and composed; loads and stores of bytes."""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.cpu.simd import cpu, memory
from bitnet_numba.backends.cpu.simd.memory import (
    broadcast_from,
    broadcast_word,
    load_bytes,
    load_f32,
    load_i32,
    prefetch,
    store_column,
    store_f32,
    store_i32,
)
from bitnet_numba.backends.cpu.simd.operation import vector_op
from bitnet_numba.backends.cpu.simd.types import I32x16, U8x64

ALL_16_BITS = np.arange(2**16).astype(np.uint16)


def copy(source: Any, target: Any) -> None:
    for i in range(0, source.size, 16):
        store_f32(target, i, load_f32(source, i))


@pytest.fixture(params=["chosen", "composed"])
def convert(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy between number formats, compiled anew: with this CPU's instructions, or without any."""
    if request.param == "composed":
        monkeypatch.setattr(memory.cpu, "has_hardware_floats", lambda: False)
    elif not cpu.has_hardware_floats():
        pytest.skip("the chosen instruction set has no conversions")
    return numba.njit(copy)


def to_f32(convert: Any, bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    out = np.empty(bits.size, np.float32)
    convert(bits, out)
    return out


def assert_same_bits(actual: npt.NDArray[Any], expected: npt.NDArray[Any], kind: Any) -> None:
    """Compare bits; any NaN equals any other."""
    numbers = ~np.isnan(expected.view(kind))
    np.testing.assert_array_equal(actual[numbers], expected[numbers])
    assert np.all(np.isnan(actual.view(kind)[~numbers]))


def as_numpy_widens(halves: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # AArch64 reports a signalling NaN that is converted
        return halves.view(np.float16).astype(np.float32)


def test_every_half_becomes_its_float(convert: Any) -> None:
    expected = as_numpy_widens(ALL_16_BITS).view(np.uint32)
    assert_same_bits(to_f32(convert, ALL_16_BITS).view(np.uint32), expected, np.float32)


def test_every_bfloat16_becomes_its_float(convert: Any) -> None:
    expected = ALL_16_BITS.astype(np.uint32) << 16
    assert_same_bits(to_f32(convert, ALL_16_BITS.view(np.int16)).view(np.uint32), expected, np.float32)


def test_every_byte_becomes_its_float(convert: Any) -> None:
    whole = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(to_f32(convert, whole), whole.astype(np.float32))


def near_every_half() -> npt.NDArray[np.float32]:
    """Every half, the middles between two of them, and the floats beside each: all that rounding can do."""
    halves = np.sort(as_numpy_widens(ALL_16_BITS))
    halves = halves[np.isfinite(halves)]
    middles = (halves[1:] + halves[:-1]) / 2
    past_the_end = np.array([65519.996, 65520, 65536, 1e5, 3.4e38, np.inf, 1e-45, 2.9802322e-8], np.float32)
    points = np.concatenate([halves, middles, past_the_end, -past_the_end, [np.nan]]).astype(np.float32)
    beside = [np.nextafter(points, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.resize(np.concatenate([points, *beside]), (3 * points.size + 15) // 16 * 16)


def test_floats_are_rounded_to_the_nearest_half_ties_to_even(convert: Any) -> None:
    x = near_every_half()
    out = np.empty(x.size, np.uint16)
    convert(x, out)
    with np.errstate(over="ignore", under="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    assert_same_bits(out, expected, np.float16)


def test_random_bits_are_rounded_to_the_nearest_half(convert: Any) -> None:
    x = np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint32).view(np.float32)
    out = np.empty(x.size, np.uint16)
    convert(x, out)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    assert_same_bits(out, expected, np.float16)


# ---- unaligned loads and stores --------------------------------------------------------------------------------------
@vector_op(I32x16, U8x64)
def as_words(b: Any, x: Any) -> Any:
    return b.bitcast(x, I32x16.llvm)


@numba.njit
def move_words(source: Any, start: int, target: Any, end: int) -> None:
    store_i32(target, end, load_i32(source, start))


@numba.njit
def move_bytes(source: Any, start: int, target: Any, end: int) -> None:
    store_i32(target, end, as_words(load_bytes(source, start)))


@numba.njit
def repeat_word(source: Any, start: int, target: Any) -> None:
    store_i32(target, 0, as_words(broadcast_word(source, start)))


@numba.njit
def repeat_float(source: Any, start: int, target: Any) -> None:
    store_f32(target, 0, broadcast_from(source, start))


@numba.njit
def move_column(source: Any, start: int, target: Any, end: int) -> None:
    store_column(target, end, load_f32(source, start))


@numba.njit
def fetch_early(source: Any, index: int) -> None:
    prefetch(source, index)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (3, 5), (16, 1)])
def test_words_move_to_where_they_are_told(start: int, end: int) -> None:
    source, target = np.arange(32).astype(np.int32) * 1000, np.full(32, -1, np.int32)
    move_words(source, start, target, end)
    expected = np.full(32, -1, np.int32)
    expected[end : end + 16] = source[start : start + 16]
    np.testing.assert_array_equal(target, expected)


def test_an_int8_array_takes_the_lowest_bytes_and_no_more() -> None:
    source, target = np.arange(-8, 8).astype(np.int32) * 17, np.full(32, 99, np.int8)
    move_words(source, 0, target, 7)
    np.testing.assert_array_equal(target[7:23], source.astype(np.int8))
    np.testing.assert_array_equal(np.delete(target, np.s_[7:23]), 99)


def test_sixty_four_bytes_are_sixteen_words() -> None:
    source, target = np.arange(70).astype(np.uint8), np.empty(16, np.int32)
    move_bytes(source, 5, target, 0)
    np.testing.assert_array_equal(target.view(np.uint8), source[5:69])


def test_four_bytes_or_one_float_go_to_every_lane() -> None:
    source, words = np.arange(-4, 5).astype(np.int8), np.empty(16, np.int32)
    repeat_word(source, 3, words)
    np.testing.assert_array_equal(words.view(np.int8).reshape(16, 4), np.tile(source[3:7], (16, 1)))
    floats, lanes = np.array([1, 2, 3], np.float32), np.empty(16, np.float32)
    repeat_float(floats, 1, lanes)
    np.testing.assert_array_equal(lanes, 2)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_column_touches_every_sixteenth_element(kind: Any) -> None:
    source, target = np.arange(1, 20).astype(np.float32) / 8, np.zeros(272, kind)
    bits = target.view(np.uint16) if kind == np.float16 else target
    move_column(source, 3, bits, 9)
    expected = np.zeros(272, kind)
    expected[9 : 9 + 256 : 16] = source[3:19]
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("index", [0, 15, 2**20, 2**40, -(2**40)])
def test_any_index_may_be_fetched_early(index: int) -> None:
    source = np.arange(16).astype(np.uint8)
    fetch_early(source, index)
    np.testing.assert_array_equal(source, np.arange(16))

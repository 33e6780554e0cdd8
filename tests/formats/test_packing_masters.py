"""Ternary weights from floats and from Hugging Face's packed form, against a checkpoint that holds both."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import FormatError, ParameterError, UnsupportedError
from bitnet_numba.formats.packing.huggingface import pack_hf, unpack_hf
from bitnet_numba.formats.packing.masters import CHUNK, LANES, absmean_ternary, exact_ternary
from bitnet_numba.formats.safetensors import open_checkpoint

DATA = Path(__file__).parent.parent / "data"
NAMES = ["model.layers.0.self_attn.k_proj.weight", "model.layers.3.self_attn.v_proj.weight"]
seeds = st.integers(0, 2**32 - 1)


def to_bf16(value: np.float32) -> int:
    """Round to bfloat16, halves to even, and return its bits."""
    bits = int(value.view(np.uint32))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


@pytest.mark.parametrize("name", NAMES)
def test_masters_give_the_weights_that_transformers_packed(name: str) -> None:
    with (
        open_checkpoint(DATA / "ternary_masters.safetensors") as masters,
        open_checkpoint(DATA / "ternary_packed.safetensors") as packed,
    ):
        weights, scale = absmean_ternary(masters.float32(name))
        np.testing.assert_array_equal(weights, unpack_hf(packed.raw(name)))
        np.testing.assert_array_equal(pack_hf(weights), packed.raw(name))
        # That checkpoint keeps its scales in bf16.
        assert to_bf16(scale) == packed.raw(f"{name}_scale")[0]


@given(st.integers(1, 2000), seeds, st.floats(1e-6, 1e3))
def test_scale_is_the_rounded_mean_and_weights_follow_it(n: int, seed: int, width: float) -> None:
    master = (np.random.default_rng(seed).normal(size=n) * width).astype(np.float32)
    weights, scale = absmean_ternary(master)
    mean = sum((Fraction(float(abs(value))) for value in master), Fraction()) / n
    assert scale == max(np.float32(float(mean)), np.float32(1e-5))
    for value, weight in zip(master, weights, strict=True):
        assert weight == max(-1, min(1, round(float(value / scale))))  # Python rounds halves to even too


def test_halves_round_to_even() -> None:
    master = np.array([0.5, -0.5, 1.5, -1.5, 0.50000006, 1.5], np.float32)  # their mean magnitude is 1
    weights, scale = absmean_ternary(master)
    assert scale == 1
    np.testing.assert_array_equal(weights, [0, 0, 1, -1, 1, 1])


def test_zeros_keep_the_smallest_scale() -> None:
    weights, scale = absmean_ternary(np.zeros((2, 3), np.float32))
    assert scale == np.float32(1e-5)
    np.testing.assert_array_equal(weights, np.zeros((2, 3)))


@pytest.mark.parametrize("n", [LANES - 1, LANES + 1, CHUNK + 5])
def test_every_pass_counts(n: int) -> None:
    master = np.random.default_rng(n).normal(size=(1, n)).astype(np.float32)
    master[0, -1] = -n  # a third of the mean comes from the last weight
    weights, scale = absmean_ternary(master)
    assert scale == pytest.approx(np.abs(master).mean(dtype=np.float64), rel=1e-7)
    np.testing.assert_array_equal(weights, np.clip(np.rint(master / scale), -1, 1))


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, 0x7F800000, 0xFF800000])
def test_refuses_masters_that_are_not_finite(bits: int) -> None:
    """A quiet NaN, a signalling one, which NumPy would warn of, and the infinities."""
    master = np.ones(9, np.float32)
    master.view(np.uint32)[4] = bits
    with pytest.raises(FormatError, match=r"^here: a weight is not finite"):
        absmean_ternary(master, "here")
    assert exact_ternary(master) is None


def test_refuses_no_weights() -> None:
    with pytest.raises(FormatError, match="no weights"):
        absmean_ternary(np.empty((0, 4), np.float32))
    assert exact_ternary(np.empty((0, 4), np.float32)) is None


@given(st.integers(1, 300), seeds, st.floats(2**-16, 2**16, width=32), st.booleans())
def test_splits_weights_that_are_ternary_already(n: int, seed: int, scale: float, dusty: bool) -> None:
    weights = np.random.default_rng(seed).integers(-1, 2, (2, n)).astype(np.int8)
    weights[0, 0] = -1
    values = weights * np.float32(scale)
    if dusty:
        values[weights == 0] = 9e-7
    split = exact_ternary(values)
    assert split is not None
    np.testing.assert_array_equal(split[0], weights)
    assert split[0].dtype == np.int8
    assert split[1] == np.float32(scale)


@pytest.mark.parametrize("other", [0.4999999, 0.25, 1.1e-6, -1.1e-6, 1.0])
@pytest.mark.parametrize("position", [0, CHUNK])
def test_leaves_weights_of_another_magnitude_alone(other: float, position: int) -> None:
    values = np.full(CHUNK + 1, 0.5, np.float32)
    assert exact_ternary(values) is not None
    values[position] = other
    assert exact_ternary(values) is None


@pytest.mark.parametrize("value", [0.0, 9e-7])
def test_zeros_tell_no_scale(value: float) -> None:
    assert exact_ternary(np.full(5, value, np.float32)) is None


def hf_one_by_one(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Put each weight where transformers' pack_weights has it."""
    rows, columns = weights.shape
    packed = np.zeros((rows // 4, columns), np.uint8)
    for row in range(rows):
        for column in range(columns):
            packed[row % (rows // 4), column] |= (int(weights[row, column]) + 1) << (2 * (row // (rows // 4)))
    return packed


@given(st.integers(1, 5), st.integers(1, 9), seeds)
def test_packed_rows_lie_a_quarter_apart(quarter_rows: int, columns: int, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(-1, 2, (4 * quarter_rows, columns)).astype(np.int8)
    packed = hf_one_by_one(weights)
    np.testing.assert_array_equal(pack_hf(weights), packed)
    unpacked = unpack_hf(packed)
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, weights)


def test_refuses_packed_rows_that_are_none() -> None:
    with pytest.raises(FormatError, match=r"^here: code byte 3 holds the code 3"):
        unpack_hf(np.array([[0, 1], [2, 0b11000000]], np.uint8), "here")
    with pytest.raises(UnsupportedError, match="multiples of 4 rows"):
        pack_hf(np.zeros((6, 2), np.int8))
    with pytest.raises(ParameterError, match="from 0 to 2 are not ternary"):
        pack_hf(np.array([[0], [1], [2], [0]], np.int8))

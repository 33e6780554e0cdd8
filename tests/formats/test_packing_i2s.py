"""I2_S: the order of real files, and both directions against a twin that moves one weight at a time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import BitNetError, FormatError, ParameterError, UnsupportedError
from bitnet_numba.formats.packing.codes import CHUNK_BYTES, check_codes
from bitnet_numba.formats.packing.i2s import i2s_bytes, pack_i2s, read_i2s_scale, unpack_i2s

DATA = Path(__file__).parent.parent / "data"
# Rows that begin inside a run, as 1bitLLM's 3B has them, among them.
SHAPES = [(1, 128), (3, 128), (64, 2), (4, 96), (128, 1), (2, 320), (5, 384)]


def ternary(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    return rng.integers(-1, 2, shape).astype(np.int8)


def packed_one_by_one(weights: npt.NDArray[np.int8], scale: float, run: int) -> npt.NDArray[np.uint8]:
    """Put each weight where the format has it; the tail ends in garbage, as in real files."""
    flat = weights.reshape(-1).astype(int)
    packed = np.zeros(i2s_bytes(flat.size), np.uint8)
    for index, weight in enumerate(flat):
        number, j = divmod(index, run)
        packed[number * run // 4 + j % (run // 4)] |= (weight + 1) << (6 - 2 * (j // (run // 4)))
    packed[-32:] = 171
    packed[-32:-28] = np.array([scale], "<f4").view(np.uint8)
    return packed


def test_real_bytes_give_the_product_that_bitnet_cpp_computed() -> None:
    with np.load(DATA / "i2s_attn_k.npz") as dump:  # layer 0's k_proj of a small model, its input and its output
        packed, x, y = dump["packed"], dump["x"], dump["y"]
    weights, scale = unpack_i2s(packed, (128, 256))
    x_scale = np.float32(127) / np.abs(x).max(axis=1, keepdims=True)
    sums = np.rint(x * x_scale).astype(np.int64) @ weights.T.astype(np.int64)
    np.testing.assert_allclose(sums.astype(np.float32) * (scale / x_scale), y, rtol=1e-6, atol=1e-6)


def test_real_bytes_come_back_but_for_the_garbage_in_the_tail() -> None:
    with np.load(DATA / "i2s_attn_k.npz") as dump:
        packed = dump["packed"]
    again = pack_i2s(*unpack_i2s(packed, (128, 256)))
    np.testing.assert_array_equal(again[:-28], packed[:-28])
    np.testing.assert_array_equal(again[-28:], 0)


@given(st.sampled_from(SHAPES), st.sampled_from([64, 128]), st.integers(0, 2**32 - 1))
def test_unpacks_each_weight_from_its_place(shape: tuple[int, int], block: int, seed: int) -> None:
    weights = ternary(np.random.default_rng(seed), shape)
    unpacked, scale = unpack_i2s(packed_one_by_one(weights, 0.3, block), shape, block=block)
    np.testing.assert_array_equal(unpacked, weights)
    assert unpacked.dtype == np.int8
    assert scale == np.float32(0.3)


@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1))
def test_packs_each_weight_to_its_place(shape: tuple[int, int], seed: int) -> None:
    weights = ternary(np.random.default_rng(seed), shape)
    np.testing.assert_array_equal(pack_i2s(weights, 0.3)[:-28], packed_one_by_one(weights, 0.3, 128)[:-28])


@pytest.mark.parametrize("extra", [0, 128, -128])
def test_tensors_of_several_passes_survive(extra: int) -> None:
    weights = ternary(np.random.default_rng(1), (1, 8 * CHUNK_BYTES + extra))
    np.testing.assert_array_equal(unpack_i2s(pack_i2s(weights, 1.0), weights.shape)[0], weights)


@pytest.mark.parametrize("position", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 4])
@pytest.mark.parametrize("shift", [0, 2, 4, 6])
def test_finds_the_code_that_is_no_weight(position: int, shift: int) -> None:
    data = np.full(2 * CHUNK_BYTES + 5, 0b10100110, np.uint8)  # neighbours 01 and 10 must not look like 11
    check_codes(data)
    data[position] |= 3 << shift
    with pytest.raises(FormatError, match=f"^f, tensor 'w': code byte {position:,} holds the code 3"):
        check_codes(data, "f, tensor 'w'")


def test_checks_every_byte_there_is() -> None:
    for byte in range(256):
        has_three = any(byte >> shift & 3 == 3 for shift in (0, 2, 4, 6))
        try:
            check_codes(np.array([byte], np.uint8))
            refused = False
        except FormatError:
            refused = True
        assert refused == has_three
    check_codes(np.empty(0, np.uint8))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_refuses_a_scale_that_is_none(scale: float) -> None:
    packed = pack_i2s(np.zeros((1, 128), np.int8), 1.0)
    packed[-32:-28] = np.array([scale], "<f4").view(np.uint8)
    with pytest.raises(FormatError, match=r"^here: its scale is"):
        read_i2s_scale(packed, "here")
    with pytest.raises(FormatError, match=r"^here: its scale is"):
        unpack_i2s(packed, (1, 128), place="here")
    with pytest.raises(ParameterError, match="I2_S scale"):
        pack_i2s(np.zeros((1, 128), np.int8), scale)


@pytest.mark.parametrize("scale", [1e39, 1e-60])
def test_refuses_a_scale_that_float32_does_not_have(scale: float) -> None:
    with pytest.raises(ParameterError, match="I2_S scale"):
        pack_i2s(np.zeros((1, 128), np.int8), scale)


@pytest.mark.parametrize(
    ("n_bytes", "shape", "words"),
    [
        (64, (1, 129), "not a multiple of 128"),
        (63, (1, 128), "needs 64 bytes, the file has 63"),
        (65, (1, 128), "has 65"),
    ],
)
def test_refuses_bytes_that_do_not_fit_the_shape(n_bytes: int, shape: tuple[int, int], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        unpack_i2s(np.zeros(n_bytes, np.uint8), shape)


def test_refuses_codes_and_runs_that_do_not_exist() -> None:
    packed = pack_i2s(np.zeros((1, 128), np.int8), 1.0)
    with pytest.raises(ParameterError, match="I2_S block 32"):
        unpack_i2s(packed, (1, 128), block=32)
    packed[7] = 0b11
    with pytest.raises(FormatError, match="code byte 7 holds the code 3"):
        unpack_i2s(packed, (1, 128))


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        (np.full((1, 128), 2, np.int8), ParameterError),
        (np.full((1, 128), -2, np.int8), ParameterError),
        (np.zeros((1, 130), np.int8), UnsupportedError),
    ],
)
def test_refuses_to_pack_what_i2s_cannot_hold(weights: npt.NDArray[np.int8], kind: type[BitNetError]) -> None:
    with pytest.raises(kind):
        pack_i2s(weights, 1.0)

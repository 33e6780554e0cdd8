"""Block formats against the gguf package, bit for bit: Q8_0, Q6_K, TQ1_0, TQ2_0, and the values of each codec."""

from collections.abc import Callable

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize as reference_dequantize
from gguf.quants import quantize as reference_quantize
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import FormatError, ParameterError, UnsupportedError
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.packing.i2s import pack_i2s
from bitnet_numba.formats.packing.int8_blocks import split_q6_k, split_q8_0
from bitnet_numba.formats.packing.tq import pack_tq1_0, pack_tq2_0, unpack_tq1_0, unpack_tq2_0
from bitnet_numba.formats.tensor_formats import FORMATS

Type = gguf.GGMLQuantizationType
BYTES = {Type.Q8_0: (32, 34), Type.Q6_K: (256, 210), Type.TQ1_0: (256, 54), Type.TQ2_0: (256, 66)}
SCALE_AT = {Type.Q8_0: 0, Type.Q6_K: 208, Type.TQ1_0: 52, Type.TQ2_0: 64}
UNPACK = {Type.TQ1_0: unpack_tq1_0, Type.TQ2_0: unpack_tq2_0}
PACK = {Type.TQ1_0: pack_tq1_0, Type.TQ2_0: pack_tq2_0}
SPLIT = {Type.Q8_0: split_q8_0, Type.Q6_K: split_q6_k}

seeds = st.integers(0, 2**32 - 1)
matrices = st.tuples(st.integers(1, 4), st.sampled_from([256, 512, 1280]))


def random_blocks(rng: np.random.Generator, kind: Type, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return blocks of any codes at all, with scales that a file may have."""
    rows, columns = shape
    weights, n_bytes = BYTES[kind]
    blocks = rng.integers(0, 256, (rows * columns // weights, n_bytes), dtype=np.uint8)
    if kind is Type.TQ2_0:
        blocks[:, :64] &= ~((blocks[:, :64] & blocks[:, :64] >> 1 & 0x55) << 1)  # code 3 becomes 1
    signs = rng.choice([-1, 1], len(blocks)) if kind in SPLIT else 1
    scales = (rng.random(len(blocks)) * signs).astype("<f2")
    blocks[:, SCALE_AT[kind] : SCALE_AT[kind] + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def dequantize(
    kind: int, data: npt.NDArray[np.uint8], shape: tuple[int, ...], place: str = "here"
) -> npt.NDArray[np.float32]:
    return FORMATS[TensorType(kind)].codec.dequantize(data, shape, place)


def assert_same_bits(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@given(st.sampled_from(list(BYTES)), matrices, seeds)
def test_any_block_means_what_the_reference_says(kind: Type, shape: tuple[int, int], seed: int) -> None:
    data = random_blocks(np.random.default_rng(seed), kind, shape)
    expected = reference_dequantize(data.reshape(shape[0], -1), kind)
    assert_same_bits(dequantize(kind, data, shape), expected)


@given(st.sampled_from(list(SPLIT)), matrices, seeds)
def test_code_times_scale_is_the_value(kind: Type, shape: tuple[int, int], seed: int) -> None:
    data = random_blocks(np.random.default_rng(seed), kind, shape)
    codes, scales = SPLIT[kind](data, shape)
    assert (codes.dtype, codes.shape) == (np.int8, shape)
    assert codes.flags.c_contiguous
    assert (scales.dtype, scales.shape[0]) == (np.float32, shape[0])
    values = codes * np.repeat(scales, shape[1] // scales.shape[1], axis=1)
    assert_same_bits(values, reference_dequantize(data.reshape(shape[0], -1), kind))
    if kind is Type.Q6_K:
        assert codes.min() >= -32
        assert codes.max() <= 31


@given(st.sampled_from(list(PACK)), matrices, seeds)
def test_ternary_blocks_are_the_reference_s_both_ways(kind: Type, shape: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, shape).astype(np.int8)
    weights[:, ::256] = 1  # the reference takes the largest magnitude of a block for its scale
    scales = rng.uniform(0.01, 2, (shape[0], shape[1] // 256)).astype(np.float16).astype(np.float32)
    packed = PACK[kind](weights, scales)
    expected = reference_quantize(weights * np.repeat(scales, 256, axis=1), kind)
    np.testing.assert_array_equal(packed, expected.reshape(-1))
    unpacked, read_scales = UNPACK[kind](packed, shape)
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, weights)
    assert_same_bits(read_scales, scales)


@pytest.mark.parametrize("kind", PACK)
def test_one_scale_serves_all_blocks(kind: Type) -> None:
    packed = PACK[kind](np.zeros((2, 512), np.int8), 0.5)
    np.testing.assert_array_equal(UNPACK[kind](packed, (2, 512))[1], np.full((2, 2), 0.5))


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf, 65520.0])
def test_refuses_to_pack_scales_that_float16_does_not_have(kind: Type, scale: float) -> None:
    with pytest.raises(ParameterError, match="scales"):
        PACK[kind](np.zeros((1, 256), np.int8), scale)


@pytest.mark.parametrize("kind", PACK)
def test_refuses_to_pack_other_weights_and_odd_rows(kind: Type) -> None:
    with pytest.raises(ParameterError, match="not ternary"):
        PACK[kind](np.full((1, 256), 2, np.int8), 1.0)
    with pytest.raises(UnsupportedError, match="multiple of 256"):
        PACK[kind](np.zeros((2, 128), np.int8), 1.0)


@pytest.mark.parametrize("kind", BYTES)
def test_refuses_bytes_that_do_not_fit_the_shape(kind: Type) -> None:
    weights, n_bytes = BYTES[kind]
    with pytest.raises(FormatError, match=rf"^here: its shape needs {2 * n_bytes} bytes"):
        dequantize(kind, np.zeros(n_bytes, np.uint8), (2, weights), place="here")
    with pytest.raises(FormatError, match=rf"^here: .* not a multiple of {weights}"):
        dequantize(kind, np.zeros(n_bytes, np.uint8), (2, weights // 2), place="here")


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7C01, 0x7E00])
def test_refuses_scales_that_are_not_finite(kind: Type, bits: int) -> None:
    weights, n_bytes = BYTES[kind]
    data = np.zeros(3 * n_bytes, np.uint8)
    data[n_bytes + SCALE_AT[kind] :][:2] = np.array([bits], "<u2").view(np.uint8)
    with pytest.raises(FormatError, match=r"^here: block 1 has the scale -?(nan|inf), expected"):
        dequantize(kind, data, (3, weights), place="here")


@pytest.mark.parametrize("kind", PACK)
def test_refuses_negative_ternary_scales(kind: Type) -> None:
    data = np.zeros(BYTES[kind][1], np.uint8)
    data[-2:] = np.array([-1], "<f2").view(np.uint8)
    with pytest.raises(FormatError, match=r"block 0 has the scale -1\.0, expected a finite number of at least 0"):
        UNPACK[kind](data, (1, 256))


def test_refuses_the_code_that_is_no_weight() -> None:
    packed = pack_tq2_0(np.zeros((2, 256), np.int8), 1.0)
    packed[66 + 3] |= 3
    with pytest.raises(FormatError, match="code byte 67 holds the code 3"):
        unpack_tq2_0(packed, (2, 256))


FLOATS: list[tuple[Type, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]]] = [
    (Type.F32, lambda data: data.view("<f4")),
    (Type.F16, lambda data: data.view("<f2").astype(np.float32)),
    (Type.BF16, lambda data: reference_dequantize(data.reshape(1, -1), Type.BF16).reshape(-1)),
]


@pytest.mark.parametrize(("kind", "expected"), FLOATS)
def test_floats_keep_their_values_and_any_shape(
    kind: Type, expected: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
) -> None:
    values = np.linspace(-3, 3, 24, dtype=np.float32)
    halves = {Type.F32: "<f4", Type.F16: "<f2"}
    stored = values.astype(halves[kind]) if kind in halves else (values.view(np.uint32) >> 16).astype("<u2")
    data = stored.view(np.uint8)
    for shape in ((24,), (4, 6), (2, 3, 4)):
        found = dequantize(kind, data, shape)
        assert found.shape == shape
        assert found.flags.writeable
        assert not np.shares_memory(found, data)
        assert_same_bits(found.reshape(-1), expected(data))
    with pytest.raises(FormatError, match="its shape needs"):
        dequantize(kind, data, (25,))


def test_i2s_is_code_times_scale() -> None:
    weights = np.random.default_rng(3).integers(-1, 2, (3, 256)).astype(np.int8)
    found = dequantize(36, pack_i2s(weights, 0.3), (3, 256))
    assert_same_bits(found, weights * np.float32(0.3))

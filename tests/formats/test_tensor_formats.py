"""The table of tensor formats: every record agrees with the gguf package and comes back, and one record is enough."""

import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize as reference_dequantize
from gguf.quants import quantize as reference_quantize
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import TensorSource, write_gguf
from bitnet_numba.formats.packing.codes import check_length
from bitnet_numba.formats.packing.matrices import Matrix, matrix_of
from bitnet_numba.formats.tensor_formats import (
    FORMATS,
    Kind,
    Layout,
    TensorFormat,
    float_codec,
    matrix_codec,
    tensor_bytes,
    ternary_codec,
    type_names,
    writable,
)
from bitnet_numba.model.gguf_source import GGUFSource
from bitnet_numba.validate.model_files import read_model_files
from bitnet_numba.validate.statistics import root_mean_square
from tests.generate.running import cpu_backend, logits_of
from tests.tiny import toy_model
from tests.tiny_files import replaced

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BY_KIND = {kind: [known.type for known in FORMATS.values() if known.kind is kind] for kind in Kind}
DEQUANTIZED = BY_KIND[Kind.DEQUANTIZED]
QUANTIZED_BY_PACKAGE = [TensorType.Q4_0, TensorType.Q4_1, TensorType.Q5_0, TensorType.Q5_1]

seeds = st.integers(0, 2**32 - 1)
rows = st.integers(1, 5)


# ---- every record ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_numbers_and_sizes_are_those_of_the_gguf_package(kind: TensorType) -> None:
    layout = FORMATS[kind].layout
    if kind is TensorType.I2_S:
        assert kind.name not in gguf.GGMLQuantizationType.__members__  # bitnet.cpp's own
        assert tensor_bytes(kind, (3, 128)) == 3 * 32 + 32
        return
    theirs = gguf.GGMLQuantizationType(kind)
    assert (theirs.name, gguf.GGML_QUANT_SIZES[theirs]) == (kind.name, (layout.block, layout.block_bytes))
    assert tensor_bytes(kind, (3, 512)) == 3 * 512 // layout.block * layout.block_bytes
    assert (layout.tail_bytes, layout.blocks_span_rows) == (0, False)


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("change", [-1, 1])
def test_bytes_that_do_not_fit_the_shape_are_refused(kind: TensorType, change: int) -> None:
    data = np.zeros(tensor_bytes(kind, (2, 256)) + change, np.uint8)
    with pytest.raises(FormatError, match=r"^here: its shape needs"):
        FORMATS[kind].codec.dequantize(data, (2, 256), "here")


@pytest.mark.parametrize("kind", BY_KIND[Kind.FLOAT], ids=lambda kind: kind.name)
@given(n_rows=rows, seed=seeds)
def test_floats_come_back(kind: TensorType, n_rows: int, seed: int) -> None:
    codec = float_codec(kind.name)
    assert codec is not None
    steps = np.random.default_rng(seed).integers(-128, 129, (n_rows, 6))
    values = (steps / 64).astype(np.float32)  # exact in each of the types
    data = np.ascontiguousarray(codec.round(values)).reshape(-1).view(np.uint8)
    assert data.size == tensor_bytes(kind, values.shape)
    np.testing.assert_array_equal(codec.dequantize(data, values.shape, "here"), values)
    np.testing.assert_array_equal(codec.matrix(data, (n_rows, 6), "here").values.view(np.uint8).reshape(-1), data)


@pytest.mark.parametrize("kind", BY_KIND[Kind.TERNARY], ids=lambda kind: kind.name)
@given(n_rows=rows, seed=seeds, scale=st.sampled_from([0.25, 1.0, 3.5]))
def test_ternary_weights_come_back(kind: TensorType, n_rows: int, seed: int, scale: float) -> None:
    codec = ternary_codec(kind)
    assert codec is not None
    weights = np.random.default_rng(seed).integers(-1, 2, (n_rows, 512)).astype(np.int8)
    weights[0, 0] = 1
    data = codec.pack(weights, scale)
    assert data.size == tensor_bytes(kind, weights.shape)
    matrix = codec.linear(data, (n_rows, 512), "here")
    np.testing.assert_array_equal(matrix.unpacked(), weights)
    assert matrix.scale == codec.stored_scale(np.float32(scale)) == scale
    np.testing.assert_array_equal(codec.dequantize(data, weights.shape, "here"), weights * np.float32(scale))
    codes = data[: data.size - FORMATS[kind].layout.tail_bytes]
    nonzeros, scales = codec.count_nonzeros(codes, "here")
    assert nonzeros.sum() == np.count_nonzero(weights)
    assert set(scales.tolist()) <= {scale, 1.0}


@pytest.mark.parametrize("kind", BY_KIND[Kind.INT8], ids=lambda kind: kind.name)
def test_int8_matrices_are_codes_times_group_scales(kind: TensorType) -> None:
    stored = toy_model(hidden_size=256, embedding_type=kind).embedding
    codec = matrix_codec(kind)
    assert codec is not None
    codes, scales = codec.matrix(stored.data, (301, 256), "here")
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes * np.repeat(scales, 256 // scales.shape[1], axis=1), stored.values)
    np.testing.assert_array_equal(codec.dequantize(stored.data, (301, 256), "here"), stored.values)


# ---- formats that the gguf package dequantizes -----------------------------------------------------------------------
def random_blocks(kind: TensorType, n_rows: int, columns: int, seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, tensor_bytes(kind, (n_rows, columns)), np.uint8)


@pytest.mark.parametrize("kind", DEQUANTIZED, ids=lambda kind: kind.name)
@given(n_rows=rows, blocks=st.integers(1, 3), seed=seeds)
def test_any_bytes_are_the_package_s_values_or_refused(kind: TensorType, n_rows: int, blocks: int, seed: int) -> None:
    columns = 256 * blocks
    data = random_blocks(kind, n_rows, columns, seed)
    with np.errstate(all="ignore"):
        expected = reference_dequantize(data.reshape(n_rows, -1), gguf.GGMLQuantizationType(kind))
    codec = FORMATS[kind].codec
    if np.isfinite(expected).all():
        found = codec.dequantize(data, (n_rows, columns), "here")
        np.testing.assert_array_equal(found.view(np.uint32), expected.astype(np.float32).view(np.uint32))
        return
    row = int(np.argmin(np.isfinite(expected).all(axis=1)))
    with pytest.raises(FormatError, match=rf"^here: row {row} holds a value that is not finite"):
        codec.dequantize(data, (n_rows, columns), "here")


@pytest.mark.parametrize("kind", QUANTIZED_BY_PACKAGE, ids=lambda kind: kind.name)
@given(n_rows=rows, seed=seeds)
def test_what_the_package_quantizes_is_read(kind: TensorType, n_rows: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((n_rows, 96)).astype(np.float32)
    stored = reference_quantize(values, gguf.GGMLQuantizationType(kind))
    found = FORMATS[kind].codec.dequantize(stored.reshape(-1).view(np.uint8), values.shape, "here")
    steps = 8 if kind in (TensorType.Q4_0, TensorType.Q4_1) else 16
    assert np.abs(found - values).max() <= np.abs(values).max() / steps * 1.1


def test_large_matrices_are_dequantized_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitnet_numba.formats.packing import gguf_package

    data = random_blocks(TensorType.IQ4_NL, 7, 64, 3)
    data.reshape(-1, 18)[:, :2] = np.array([0.5], "<f2").view(np.uint8)
    whole = FORMATS[TensorType.IQ4_NL].codec.dequantize(data, (7, 64), "here")
    monkeypatch.setattr(gguf_package, "CHUNK_WEIGHTS", 128)
    np.testing.assert_array_equal(FORMATS[TensorType.IQ4_NL].codec.dequantize(data, (7, 64), "here"), whole)


@pytest.mark.parametrize("kind", [TensorType.Q4_0, TensorType.Q5_1], ids=lambda kind: kind.name)
def test_an_embedding_is_the_matrix_that_the_file_says(kind: TensorType, tmp_path: Path) -> None:
    model = toy_model(hidden_size=256, embedding_type=kind, head_type=TensorType.F16)
    source = GGUFSource(model.gguf().write(tmp_path / "toy.gguf"))
    values, scales = source.matrix("token_embd")
    assert (values.dtype, scales.shape) == (np.float32, (301, 0))
    np.testing.assert_array_equal(values, model.embedding.values)


def test_a_model_with_such_an_embedding_runs_like_its_float32_twin(tmp_path: Path) -> None:
    model = toy_model(embedding_type=TensorType.Q4_0)
    path = model.gguf().write(tmp_path / "toy.gguf")
    contents = model.gguf()
    name, values = "token_embd.weight", model.embedding.values
    contents.tensors[name] = replaced(contents.tensors[name], type=TensorType.F32, data=values)
    twin = contents.write(tmp_path / "twin.gguf")
    found, expected = (logits_of(cpu_backend(file), model.tokens(20)) for file in (path, twin))
    np.testing.assert_array_equal(found, expected)


def test_linear_layers_are_refused_before_an_embedding_is_dequantized(tmp_path: Path) -> None:
    contents = toy_model(hidden_size=256, embedding_type=TensorType.Q4_0).gguf()
    name = "blk.1.ffn_up.weight"
    shape = contents.tensors[name].shape
    data = np.zeros(tensor_bytes(TensorType.Q4_K, shape), np.uint8)
    contents.tensors[name] = replaced(contents.tensors[name], type=TensorType.Q4_K, data=data)
    source = GGUFSource(contents.write(tmp_path / "toy.gguf"))
    for read in (lambda: source.matrix("token_embd"), lambda: source.linear("ffn_up", 1)):
        with pytest.raises(UnsupportedError, match=r"'ffn_up\.weight' of layer 1: Q4_K is not ternary; take the"):
            read()


def test_a_norm_is_refused(tmp_path: Path) -> None:
    contents = toy_model(hidden_size=256).gguf()
    name = "blk.0.attn_norm.weight"
    data = np.zeros(tensor_bytes(TensorType.Q4_K, (256,)), np.uint8)
    contents.tensors[name] = replaced(contents.tensors[name], type=TensorType.Q4_K, data=data)
    source = GGUFSource(contents.write(tmp_path / "toy.gguf"))
    with pytest.raises(UnsupportedError, match=r"'attn_norm\.weight' of layer 0: a quantized norm"):
        source.norm("attn_norm", 0)


# ---- users of the table ----------------------------------------------------------------------------------------------
def test_what_is_written_has_a_file_type() -> None:
    assert list(writable(Kind.FLOAT, Kind.TERNARY)) == ["f16", "bf16", "f32", "i2_s", "tq2_0", "tq1_0"]
    assert writable(Kind.INT8, Kind.DEQUANTIZED) == {}
    assert type_names(Kind.INT8) == ("Q8_0", "Q6_K")


# ---- one record is enough --------------------------------------------------------------------------------------------
class SignCodec:
    """Q1_0: for 128 weights a float16 scale and a bit each, 0 for -scale and 1 for +scale."""

    def dequantize(self, data: Bytes, shape: tuple[int, ...], place: str) -> Floats:
        check_length(data, tensor_bytes(TensorType.Q1_0, shape), place)
        blocks = data.reshape(-1, 18)
        signs = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.float32) * 2 - 1
        return (signs * blocks[:, :2].copy().view("<f2").astype(np.float32)).reshape(shape)

    def matrix(self, data: Bytes, shape: tuple[int, int], place: str) -> Matrix:
        return matrix_of(self.dequantize(data, shape, place))


@pytest.fixture
def sign_format(monkeypatch: pytest.MonkeyPatch) -> TensorType:
    module: Any = SimpleNamespace(CODECS={"Q1_0": SignCodec()})
    monkeypatch.setitem(sys.modules, "toy_format", module)
    record = TensorFormat(TensorType.Q1_0, Kind.DEQUANTIZED, Layout(128, 18), "toy_format")
    monkeypatch.setitem(FORMATS, TensorType.Q1_0, record)
    return TensorType.Q1_0


def sign_bytes(shape: tuple[int, int], scale: float) -> Bytes:
    block = struct.pack("<e", scale) + bytes([0b10101010] * 16)
    return np.frombuffer(block * (shape[0] * shape[1] // 128), np.uint8)


def test_a_file_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BitNetError, match="type Q1_0 has no known size"):
        write_gguf(tmp_path / "toy.gguf", {}, [TensorSource("w", TensorType.Q1_0, (1, 128), lambda: b"")])


def test_one_record_writes_reads_runs_and_inspects_a_format(sign_format: TensorType, tmp_path: Path) -> None:
    contents = toy_model(hidden_size=256, vocab_size=303).gguf()
    data = sign_bytes((303, 256), 0.75)
    contents.tensors["token_embd.weight"] = replaced(contents.tensors["token_embd.weight"], type=sign_format, data=data)
    path = contents.write(tmp_path / "toy.gguf")
    with open_gguf(path) as file:
        assert file.tensors["token_embd.weight"].n_bytes == 303 * 36
    values = GGUFSource(path).matrix("token_embd").values
    assert values[0, :4].tolist() == [-0.75, 0.75, -0.75, 0.75]
    model = read_model_files(path)
    assert root_mean_square(model, model.tensors["token_embd.weight"]) == pytest.approx(0.75)

"""From GGUF to GGUF: exact where that is possible, told where it is not, and read back before it appears."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet_numba.errors import BitNetError, FormatError, ParameterError, UnsupportedError
from bitnet_numba.export import quantize
from bitnet_numba.export.quantize import QuantizeRequest, QuantizeResult, quantize_gguf
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import TensorSource
from bitnet_numba.model.gguf_source import GGUFSource
from tests.generate.running import cpu_backend, logits_of
from tests.tiny import ToyModel, toy_model

BLOCKS: dict[str, Any] = {"hidden_size": 256, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 512}
DATA = Path(__file__).parent.parent / "data"
TERNARY = {"i2_s": TensorType.I2_S, "tq1_0": TensorType.TQ1_0, "tq2_0": TensorType.TQ2_0}
COPIED = {"token_embd", "output_norm", "attn_norm", "ffn_norm", "attn_sub_norm", "ffn_sub_norm"}


def quantized(source: Path, kind: str, **patterns: Any) -> QuantizeResult:
    return quantize_gguf(QuantizeRequest(source, source.parent / f"{kind}.gguf", kind, **patterns))


def logits(path: Path, model: ToyModel) -> Any:
    return logits_of(cpu_backend(path), model.tokens(20))


@pytest.mark.parametrize("kind", TERNARY)
@pytest.mark.parametrize("stored", [TensorType.I2_S, TensorType.TQ1_0, TensorType.TQ2_0, TensorType.F16])
def test_ternary_to_ternary_is_exact(stored: TensorType, kind: str, tmp_path: Path) -> None:
    model = toy_model("llama", **BLOCKS)
    source = model.gguf(stored).write(tmp_path / "source.gguf")
    result = quantized(source, kind)
    np.testing.assert_array_equal(logits(result.out, model), logits(source, model))
    assert len(result.tensors) == (0 if stored is TERNARY[kind] else 14)
    assert all(tensor.exact and tensor.relative_error == 0 for tensor in result.tensors)
    assert {tensor.stored_after for tensor in result.tensors} <= {TERNARY[kind].name}


@pytest.mark.parametrize("family", ["", "-llama", "-bitnet3b"])
def test_files_of_bitnet_cpp_go_there_and_back(family: str, tmp_path: Path) -> None:
    """Their tails hold garbage, which is not copied."""
    source = DATA / "bitnetcpp" / f"synth-tiny{family}-i2_s.gguf"
    there = quantize_gguf(QuantizeRequest(source, tmp_path / "there.gguf", "tq2_0"))
    back = quantize_gguf(QuantizeRequest(there.out, tmp_path / "back.gguf", "i2_s"))
    assert len(there.tensors) == len(back.tensors) == 28
    assert all(tensor.relative_error <= 2.0**-11 for tensor in there.tensors)
    assert all(tensor.exact for tensor in back.tensors)
    with open_gguf(source) as old, open_gguf(back.out) as new:
        for tensor in back.tensors:
            np.testing.assert_array_equal(new.data(tensor.name)[:-32], old.data(tensor.name)[:-32])
            assert not new.data(tensor.name)[-28:].any()


def test_a_matrix_of_zeros_stays_one(tmp_path: Path) -> None:
    model = toy_model(**BLOCKS)
    model.linears["ffn_up", 1] = np.zeros((512, 256), np.int8), np.float32(0.25)
    source = model.gguf().write(tmp_path / "source.gguf")
    floats = quantized(source, "f16")
    np.testing.assert_array_equal(logits(floats.out, model), logits(source, model))
    assert all(tensor.exact for tensor in quantized(floats.out, "tq1_0").tensors)


def test_masters_are_quantized_as_the_engine_does_it(tmp_path: Path) -> None:
    model = toy_model(has_masters=True, **BLOCKS)
    source = model.gguf(TensorType.F32).write(tmp_path / "source.gguf")
    result = quantized(source, "i2_s")
    np.testing.assert_array_equal(logits(result.out, model), logits(source, model))
    masters, (codes, scale) = model.masters["attn_q", 0], model.linears["attn_q", 0]
    [tensor] = [tensor for tensor in result.tensors if tensor.name == "blk.0.attn_q.weight"]
    expected = np.linalg.norm(masters - codes * scale) / np.linalg.norm(masters)
    assert not tensor.exact
    assert tensor.relative_error == pytest.approx(expected, rel=1e-5)
    assert tensor.scale == scale
    assert (tensor.bytes_before, tensor.bytes_after) == (256 * 256 * 4, 256 * 256 // 4 + 32)


def test_a_scale_that_float16_rounds_is_told(tmp_path: Path) -> None:
    model = toy_model(has_masters=True, **BLOCKS)
    source = model.gguf().write(tmp_path / "source.gguf")
    errors = [tensor.relative_error for tensor in quantized(source, "tq2_0").tensors]
    assert 0 < max(errors) <= 2.0**-11


def test_back_to_floats_and_again(tmp_path: Path) -> None:
    contents = toy_model(**BLOCKS).gguf()
    contents.metadata["general.file_type"] = 40
    source = contents.write(tmp_path / "source.gguf")
    floats = quantized(source, "f16")
    again = quantized(floats.out, "i2_s")
    assert all(tensor.exact for tensor in (*floats.tensors, *again.tensors))
    assert again.out.read_bytes() == source.read_bytes()
    with open_gguf(floats.out) as file:
        assert {info.type for name, info in file.tensors.items() if "attn_q" in name} == {TensorType.F16}
        assert file.metadata["general.file_type"] == 1


def test_masters_stay_masters_on_the_way_back(tmp_path: Path) -> None:
    model = toy_model(has_masters=True, **BLOCKS)
    source = model.gguf(TensorType.F32).write(tmp_path / "source.gguf")
    assert quantized(source, "f16").tensors == ()


def test_everything_else_is_copied(tmp_path: Path) -> None:
    model = toy_model(embedding_type=TensorType.Q6_K, **BLOCKS)
    source = model.gguf(TensorType.F16).write(tmp_path / "source.gguf")
    result = quantized(source, "tq1_0")
    with open_gguf(source) as old, open_gguf(result.out) as new:
        assert list(new.tensors) == list(old.tensors)
        copied = [name for name, info in new.tensors.items() if info.type is not TensorType.TQ1_0]
        assert {name.split(".")[-2] for name in copied} == COPIED
        assert all(new.data(name).tobytes() == old.data(name).tobytes() for name in copied)
        assert old.metadata | {"general.file_type": 36} == new.metadata
    assert result.n_copied == len(copied)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"include": ["blk.0.*"]}, 7),
        ({"exclude": ["blk.1.attn_?.weight"]}, 11),
        ({"include": ["*ffn*"], "exclude": ["blk.0.*"]}, 3),
    ],
)
def test_patterns_choose_among_the_linear_layers(patterns: Any, expected: int, tmp_path: Path) -> None:
    model = toy_model(**BLOCKS)
    source = model.gguf().write(tmp_path / "source.gguf")
    result = quantized(source, "tq2_0", **patterns)
    assert len(result.tensors) == expected
    with open_gguf(result.out) as file:
        assert file.metadata["general.file_type"] == (37 if expected >= 7 else 40)  # what most of the 14 matrices are
    np.testing.assert_array_equal(logits(result.out, model), logits(source, model))


@pytest.mark.parametrize("pattern", ["*norm*", "token_embd.weight", "blk.7.*"])
def test_a_pattern_that_takes_no_linear_layer_is_refused(pattern: str, tmp_path: Path) -> None:
    source = toy_model(**BLOCKS).gguf().write(tmp_path / "source.gguf")
    with pytest.raises(ParameterError, match="matches no linear layer"):
        quantized(source, "tq2_0", include=[pattern])


def test_a_scale_apart_goes_into_its_matrix(tmp_path: Path) -> None:
    model = toy_model("bitnet", **BLOCKS)
    contents = model.gguf()
    scale = np.array([0.5], np.float32)
    name = "blk.1.ffn_up.scale"
    contents.tensors[name] = TensorSource(name, TensorType.F32, (1,), lambda: scale)
    source = contents.write(tmp_path / "source.gguf")
    result = quantized(source, "tq2_0")
    np.testing.assert_array_equal(logits(result.out, model), logits(source, model))
    with open_gguf(result.out) as file:
        assert name not in file.tensors


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = toy_model(**BLOCKS).gguf(TensorType.F16).write(tmp_path / "source.gguf")
    first = quantized(source, "i2_s").out.read_bytes()
    assert quantized(source, "i2_s").out.read_bytes() == first


# ---- refusals --------------------------------------------------------------------------------------------------------
def test_a_matrix_that_fills_no_blocks_is_refused_by_name(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {**BLOCKS, "intermediate_size": 384}
    source = toy_model(**sizes).gguf().write(tmp_path / "source.gguf")
    with pytest.raises(UnsupportedError, match=r"'blk\.0\.ffn_down\.weight': TQ2_0 cannot hold it"):
        quantized(source, "tq2_0")
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


@pytest.mark.parametrize("role", ["token_embd.weight", "blk.1.attn_norm.weight", "blk.0.ffn_down.weight"])
def test_a_value_that_is_not_finite_is_refused_by_name(role: str, tmp_path: Path) -> None:
    contents = toy_model(has_masters=True, embedding_type=TensorType.F32, **BLOCKS).gguf(TensorType.F32)
    old = contents.tensors[role]
    data = np.array(old.read()).view(np.float32).copy()
    data.reshape(-1)[-3] = np.nan
    contents.tensors[role] = TensorSource(role, old.type, old.shape, lambda: data)
    with pytest.raises(FormatError) as caught:
        quantized(contents.write(tmp_path / "source.gguf"), "i2_s")
    assert role.split(".")[-2] in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_the_source_itself_is_not_replaced(tmp_path: Path) -> None:
    source = toy_model(**BLOCKS).gguf().write(tmp_path / "source.gguf")
    before = source.read_bytes()
    with pytest.raises(BitNetError, match="is the source itself"):
        quantize_gguf(QuantizeRequest(source, tmp_path / "." / "source.gguf", "tq2_0"))
    assert source.read_bytes() == before


def test_a_missing_source_is_said_so_also_where_the_target_exists(tmp_path: Path) -> None:
    (tmp_path / "i2_s.gguf").write_bytes(b"older")
    with pytest.raises(BitNetError, match="no such file"):
        quantized(tmp_path / "missing.gguf", "i2_s")
    assert (tmp_path / "i2_s.gguf").read_bytes() == b"older"


@pytest.mark.parametrize("at", ["codes", "scale", "copied"])
def test_what_is_read_back_wrong_never_appears(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that spoils one byte is caught by the reading back."""
    source = toy_model(**BLOCKS).gguf().write(tmp_path / "source.gguf")

    def spoilt(path: Path) -> GGUFSource:
        name = "blk.0.attn_norm.weight" if at == "copied" else "blk.1.ffn_up.weight"
        if path != source:
            with open_gguf(path) as file:
                info = file.tensors[name]
            contents = bytearray(path.read_bytes())
            byte = info.offset + (64 if at == "scale" else 3)  # a block of TQ2_0: 64 bytes of codes, the scale
            contents[byte] = 0 if contents[byte] else 1
            path.write_bytes(contents)
        return GGUFSource(path)

    monkeypatch.setattr(quantize, "GGUFSource", spoilt)
    with pytest.raises(BitNetError, match=r"read back|blk\.1|layer 1"):
        quantized(source, "tq2_0")
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_an_unknown_type_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"q8_0.*i2_s"):
        QuantizeRequest(tmp_path, tmp_path, "q8_0")

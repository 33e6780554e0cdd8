"""The whole export: three files that agree, whatever the family, the source's form and the type asked for."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from bitnet_numba.errors import BitNetError, FormatError, ParameterError, UnsupportedError
from bitnet_numba.export import tensors
from bitnet_numba.export.model import ExportRequest, ExportResult, export_model
from bitnet_numba.export.quantization import TYPES, is_float
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import Progress
from bitnet_numba.model.config import RopeScaling
from tests.generate.running import cpu_backend, logits_of
from tests.tiny import ARCHITECTURES, ToyModel, toy_checkpoint, toy_model

BLOCKS: dict[str, Any] = {"hidden_size": 256, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 512}
FORMS = {"multiplied": "autobitlinear", "divided": "bitlinear", "masters": None}


def exported(directory: Path, kind: str, **options: Any) -> ExportResult:
    return export_model(ExportRequest(directory, directory.parent / "out", kind, **options))


def logits(path: Path, model: ToyModel) -> Any:
    return logits_of(cpu_backend(path), model.tokens(20))


# ---- the engine takes the file for the checkpoint --------------------------------------------------------------------
@pytest.mark.parametrize("kind", TYPES)
def test_ternary_weights_give_the_same_bits_in_every_type(kind: str, tmp_path: Path) -> None:
    model = toy_model(embedding_type=TensorType.BF16, **BLOCKS)  # scales that float16 and bfloat16 hold
    directory = model.checkpoint().write(tmp_path / "toy", n_shards=3)
    result = exported(directory, kind)
    np.testing.assert_array_equal(logits(result.gguf, model), logits(directory, model))
    assert result.notes == ()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("form", FORMS)
def test_every_family_and_form_gives_the_same_bits(architecture: str, form: str, tmp_path: Path) -> None:
    head = TensorType.BF16 if architecture == "llama" else None
    model = toy_model(architecture, has_masters=True, embedding_type=TensorType.BF16, head_type=head, **BLOCKS)
    directory = model.checkpoint(FORMS[form]).write(tmp_path / "toy")
    np.testing.assert_array_equal(logits(exported(directory, "i2_s").gguf, model), logits(directory, model))


@pytest.mark.parametrize("kind", ["i2_s", "tq2_0", "bf16"])
def test_a_checkpoint_of_transformers_gives_the_same_bits(kind: str, tmp_path: Path) -> None:
    directory = Path(__file__).parent.parent / "data" / "huggingface" / "tiny-packed"
    result = export_model(ExportRequest(directory, tmp_path, kind, strict=True))
    tokens = np.arange(40, 80, dtype=np.int32)
    found, expected = (logits_of(cpu_backend(path), tokens) for path in (result.gguf, directory))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["bf16", "f32"])
def test_master_weights_are_kept_and_run_the_same(kind: str, tmp_path: Path) -> None:
    model = toy_model("llama", has_masters=True, embedding_type=TensorType.BF16, **BLOCKS)
    directory = model.checkpoint(None).write(tmp_path / "toy")
    result = exported(directory, kind)
    np.testing.assert_array_equal(logits(result.gguf, model), logits(directory, model))
    assert result.notes == ()


@pytest.mark.parametrize("scaling", [RopeScaling(4.0), RopeScaling(8.0, (1.0, 4.0, 16))], ids=["linear", "llama3"])
def test_scaled_rope_goes_along(scaling: RopeScaling, tmp_path: Path) -> None:
    model = toy_model("llama", rope_scaling=scaling, embedding_type=TensorType.BF16, **BLOCKS)
    directory = model.checkpoint().write(tmp_path / "toy")
    found, expected = logits(exported(directory, "i2_s").gguf, model), logits(directory, model)
    np.testing.assert_array_equal(found, expected)


def test_a_head_width_of_its_own_goes_along(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 128, "n_heads": 3, "n_kv_heads": 1, "head_dim": 64}
    model = toy_model(embedding_type=TensorType.BF16, **sizes)
    directory = model.checkpoint().write(tmp_path / "toy")
    np.testing.assert_array_equal(logits(exported(directory, "i2_s").gguf, model), logits(directory, model))


# ---- others read the file --------------------------------------------------------------------------------------------
def test_the_gguf_package_reads_the_f16_file(tmp_path: Path) -> None:
    model = toy_model(has_masters=True, **BLOCKS)
    reader = gguf.GGUFReader(exported(model.checkpoint(None).write(tmp_path / "toy"), "f16").gguf)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    for (role, layer), (codes, scale) in model.linears.items():
        tensor = stored[f"blk.{layer}.{role}.weight"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F16
        assert tensor.shape.tolist() == [*reversed(codes.shape)]
        np.testing.assert_array_equal(tensor.data, codes * np.float16(scale))
    for (role, layer_or_none), norm in model.norms.items():
        name = role if layer_or_none is None else f"blk.{layer_or_none}.{role}"
        np.testing.assert_array_equal(stored[f"{name}.weight"].data, norm)
    assert reader.fields["general.file_type"].contents() == 1
    assert reader.fields["bitnet-b1.58.block_count"].contents() == 2


# ---- the files beside it ---------------------------------------------------------------------------------------------
def test_fingerprint_and_record_tell_what_was_written(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    directory = checkpoint.write(tmp_path / "toy")
    result = exported(directory, "i2_s", hf_repo="some/Toy", revision="abc123")
    digest = hashlib.sha256(result.gguf.read_bytes()).hexdigest()
    assert sorted(path.name for path in result.gguf.parent.iterdir()) == [
        "clean-i2_s.fingerprint",
        "clean-i2_s.gguf",
        "clean-i2_s.meta.json",
    ]
    assert result.fingerprint_file.read_text() == f"sha256-{digest}\n"
    meta = json.loads(result.meta_file.read_text())
    assert meta == result.meta
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    assert meta.pop("tokenizer_sha256") == sources.pop("tokenizer.json")
    assert meta.pop("source_sha256") == sources
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta.pop("export_date"))
    assert meta.pop("converter_version")
    assert meta == {
        "source": "some/Toy",
        "source_revision": "abc123",
        "tokenizer": "tokenizer.json",
        "converter": "bitnet-numba export",
        "output": "clean-i2_s.gguf",
        "size_bytes": result.gguf.stat().st_size,
        "fingerprint": f"sha256-{digest}",
        "format": "gguf_v3",
        "precision": "i2_s",
        "layernorm_format": "float_preserved",
        "layernorm_enforcement": "automatic",
        "tensors": 24,
        "quantized_tensors": 14,
        "excluded_tensors": 10,
        "notes": [],
    }
    with open_gguf(result.gguf) as file:
        assert file.metadata["general.name"] == "Toy"


def test_a_tokenizer_elsewhere_is_taken(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    other = tmp_path / "other.json"
    checkpoint.tokenizer["added_tokens"][-1]["content"] = "<|other|>"
    other.write_text(json.dumps(checkpoint.tokenizer), encoding="utf-8")
    result = exported(toy_checkpoint().write(tmp_path / "toy"), "f16", tokenizer=other)
    assert result.meta["tokenizer"] == "other.json"
    with open_gguf(result.gguf) as file:
        assert file.metadata["tokenizer.ggml.tokens"][-1] == "<|other|>"


def test_progress_counts_the_weights(tmp_path: Path) -> None:
    steps: list[Progress] = []
    directory = toy_checkpoint().write(tmp_path / "toy")
    export_model(ExportRequest(directory, tmp_path / "out", "i2_s"), steps.append)
    assert len(steps) == 24
    assert steps[0].tensor == "token_embd.weight"
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total


# ---- what is not exact is said, and refused in strict mode -----------------------------------------------------------
def test_rounding_is_noted_and_refused_in_strict_mode(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"][1][3, 5] = 0x3401  # 1.2e-7, between float16's steps
    directory = checkpoint.write(tmp_path / "toy")
    result = exported(directory, "f16", masters=True)
    assert any("blk.0.attn_q.weight" in note and "rounded" in note for note in result.notes)
    before = result.gguf.read_bytes()
    with pytest.raises(UnsupportedError, match="rounded"):
        exported(directory, "f16", strict=True, masters=True)
    assert result.gguf.read_bytes() == before
    assert exported(directory, "bf16", strict=True, masters=True).notes == ()
    assert exported(directory, "f16", strict=True).notes == ()  # weights times scale, and the exact scale beside them


def test_a_scale_that_float16_rounds_is_noted(tmp_path: Path) -> None:
    model = toy_model(has_masters=True, **BLOCKS)
    directory = model.checkpoint(None).write(tmp_path / "toy")
    assert "14 of the tensors had values rounded" in exported(directory, "tq2_0").notes[0]
    assert exported(directory, "i2_s").notes == ()


@pytest.mark.parametrize(("kind", "way_out"), [("f16", "use f32"), ("tq1_0", "use i2_s")])
def test_what_float16_cannot_hold_is_refused(kind: str, way_out: str, tmp_path: Path) -> None:
    model = toy_model(has_masters=True, **BLOCKS)
    contents = model.checkpoint(None)
    name = "model.layers.1.mlp.up_proj.weight"
    contents.tensors[name] = "F32", np.full((512, 256), 1e5, np.float32)
    with pytest.raises(UnsupportedError, match=way_out) as caught:
        exported(contents.write(tmp_path / "toy"), kind)
    assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_the_embedding_once_more_is_left_out(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.tensors["lm_head.weight"] = checkpoint.tensors["model.embed_tokens.weight"]
    directory = checkpoint.write(tmp_path / "toy")
    assert "lm_head.weight" in exported(directory, "i2_s").notes[0]
    with pytest.raises(UnsupportedError, match=r"lm_head\.weight"):
        exported(directory, "i2_s", strict=True)


@pytest.mark.parametrize("kind", ["f16", "f32", "i2_s"])
def test_blocks_of_any_size_give_the_same_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = toy_checkpoint().write(tmp_path / "toy")
    whole = exported(directory, kind).gguf.read_bytes()
    monkeypatch.setattr(tensors, "BLOCK_WEIGHTS", 1000)
    assert exported(directory, kind).gguf.read_bytes() == whole


def test_a_value_that_is_not_finite_is_found_in_a_later_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "BLOCK_WEIGHTS", 1000)
    checkpoint = toy_checkpoint()
    checkpoint.tensors["model.embed_tokens.weight"][1][101, 7] = 0x7F80  # infinity
    with pytest.raises(FormatError, match=r"'model\.embed_tokens\.weight': inf at \(101, 7\)"):
        exported(checkpoint.write(tmp_path / "toy"), "bf16")
    assert not (tmp_path / "out").exists()


# ---- nothing half-done -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [name for name, kind in TYPES.items() if not is_float(kind)])
def test_a_refusal_takes_back_the_folders_it_made(kind: str, tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.tensors["model.norm.weight"][1][0] = 0x7FC0  # NaN in the tensor that is written last
    directory = checkpoint.write(tmp_path / "toy")
    with pytest.raises(BitNetError):
        export_model(ExportRequest(directory, tmp_path / "new" / "out", kind))
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_pickle_is_refused_with_the_reason(tmp_path: Path) -> None:
    directory = toy_checkpoint().write(tmp_path / "toy")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match=r"pickle, which can run code; convert it to model\.safetensors"):
        exported(directory, "f16")


def test_a_gguf_file_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(BitNetError, match="is no folder with a checkpoint"):
        exported(file, "f16")


def test_an_unknown_type_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"q4_0.*f16"):
        ExportRequest(tmp_path, tmp_path, "q4_0")


def test_packed_and_master_weights_give_one_file(tmp_path: Path) -> None:
    masters, packed = toy_checkpoint(), toy_checkpoint(linear_class="autobitlinear")
    first = exported(masters.write(tmp_path / "masters"), "i2_s").gguf.read_bytes()
    assert exported(packed.write(tmp_path / "packed"), "i2_s").gguf.read_bytes() == first

"""The RMS of every stored form is that of the values it means."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.formats.packing.codes import two_bit_nonzeros
from bitnet_numba.formats.packing.i2s import pack_i2s
from bitnet_numba.formats.packing.tq import pack_tq1_0, pack_tq2_0
from bitnet_numba.formats.tensor_formats import ternary_codec
from bitnet_numba.model.weight_rules import LAYERNORM, PROJECTION
from bitnet_numba.validate import statistics
from bitnet_numba.validate.model_files import read_model_files
from bitnet_numba.validate.statistics import root_mean_square
from tests.tiny import ToyModel, toy_model
from tests.tiny_files import replaced

GGUF_TYPES = [
    TensorType.I2_S,
    TensorType.TQ1_0,
    TensorType.TQ2_0,
    TensorType.F16,
    TensorType.BF16,
    TensorType.F32,
    TensorType.Q8_0,
]


@pytest.fixture(scope="module")
def toy() -> ToyModel:
    return toy_model(has_masters=True, hidden_size=256, n_heads=2)


def true_rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


def expected(toy: ToyModel, role: str, layer: int, *, masters: bool) -> float:
    weights, scale = toy.linears[role, layer]
    return true_rms(toy.masters[role, layer]) if masters else true_rms(weights * np.float64(scale))


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_gguf_tensors(toy: ToyModel, kind: TensorType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 700)  # several chunks a tensor, the last one short
    model = read_model_files(toy.gguf(kind).write(tmp_path / "toy.gguf"))
    is_ternary = kind in (TensorType.I2_S, TensorType.TQ1_0, TensorType.TQ2_0)
    # scales of TQ forms are float16, Q8_0 rounds each weight
    tolerance = {TensorType.Q8_0: 1e-3, TensorType.TQ1_0: 1e-3, TensorType.TQ2_0: 1e-3, TensorType.F16: 1e-5}.get(kind)
    for tensor in model.tensors.values():
        assert tensor.role is not None
        if tensor.kind == PROJECTION:
            assert tensor.role.layer is not None
            wanted = expected(toy, tensor.role.name, tensor.role.layer, masters=not is_ternary)
            assert root_mean_square(model, tensor) == pytest.approx(wanted, rel=tolerance or 1e-12)
        elif tensor.kind == LAYERNORM:
            norm = toy.norms[tensor.role.name, tensor.role.layer]
            assert root_mean_square(model, tensor) == pytest.approx(true_rms(norm), rel=1e-12)


@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear", None])
def test_hugging_face_tensors(toy: ToyModel, linear_class: str | None, tmp_path: Path) -> None:
    model = read_model_files(toy.checkpoint(linear_class).write(tmp_path / "toy", n_shards=2))
    kinds = [tensor.kind for tensor in model.tensors.values()]
    assert (kinds.count(PROJECTION), kinds.count(LAYERNORM)) == (14, 9)
    for tensor in model.tensors.values():
        if tensor.kind == PROJECTION:
            assert tensor.role is not None
            assert tensor.role.layer is not None
            wanted = expected(toy, tensor.role.name, tensor.role.layer, masters=linear_class is None)
            assert root_mean_square(model, tensor) == pytest.approx(wanted, rel=1e-6)


def test_a_separate_scale_counts(toy: ToyModel, tmp_path: Path) -> None:
    contents = toy.gguf()
    scale = np.array([0.5], np.float32)
    source = replaced(contents.tensors["output_norm.weight"], name="blk.0.attn_q.scale", shape=(1,), data=scale)
    contents.tensors["blk.0.attn_q.scale"] = source
    model = read_model_files(contents.write(tmp_path / "toy.gguf"))
    tensor = model.tensors["blk.0.attn_q.weight"]
    assert root_mean_square(model, tensor) == pytest.approx(expected(toy, "attn_q", 0, masters=False) / 2, rel=1e-12)
    assert model.tensors["blk.0.attn_q.scale"].kind == "scale"


def test_packed_weights_need_their_scale(toy: ToyModel, tmp_path: Path) -> None:
    checkpoint = toy.checkpoint()
    del checkpoint.tensors["model.layers.1.mlp.up_proj.weight_scale"]
    model = read_model_files(checkpoint.write(tmp_path / "toy"))
    with pytest.raises(UnsupportedError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight': packed weights without"):
        root_mean_square(model, model.tensors["model.layers.1.mlp.up_proj.weight"])


def test_what_is_not_finite_is_told(toy: ToyModel, tmp_path: Path) -> None:
    contents = toy.gguf()
    name, norm = "blk.1.ffn_norm.weight", toy.norms["ffn_norm", 1].copy()
    norm[3] = np.nan
    contents.tensors[name] = replaced(contents.tensors[name], data=norm)
    model = read_model_files(contents.write(tmp_path / "toy.gguf"))
    assert np.isnan(root_mean_square(model, model.tensors[name]))


def test_a_code_that_is_none_is_refused(toy: ToyModel, tmp_path: Path) -> None:
    contents = toy.gguf()
    name = "blk.1.ffn_up.weight"
    data = np.array(contents.tensors[name].read(), copy=True)
    data[77] = 0b11_00_00_00
    contents.tensors[name] = replaced(contents.tensors[name], data=data)
    model = read_model_files(contents.write(tmp_path / "toy.gguf"))
    with pytest.raises(FormatError, match=r"'blk\.1\.ffn_up\.weight': 1 bytes hold the code 3"):
        root_mean_square(model, model.tensors[name])


def test_a_file_that_shrinks_is_an_error(toy: ToyModel, tmp_path: Path) -> None:
    path = toy.gguf().write(tmp_path / "toy.gguf")
    model = read_model_files(path)
    last = list(model.tensors.values())[-1]
    with path.open("r+b") as file:
        file.truncate(last.offset + 40)
    with pytest.raises(BitNetError, match="the file ends inside it"):
        root_mean_square(model, last)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_counts_are_those_of_the_weights(seed: int, n_blocks: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, (n_blocks, 256), np.int8)
    scales = rng.uniform(0.1, 2, (n_blocks, 1)).astype(np.float16).astype(np.float32)
    wanted = np.count_nonzero(weights, axis=1)
    for kind, pack in ((TensorType.TQ1_0, pack_tq1_0), (TensorType.TQ2_0, pack_tq2_0)):
        codec = ternary_codec(kind)
        assert codec is not None
        found, stored = codec.count_nonzeros(pack(weights, scales), "here")
        assert found.tolist() == wanted.tolist()
        assert stored.tolist() == scales[:, 0].tolist()
    histogram = np.bincount(pack_i2s(weights, 1.0)[:-32], minlength=256)
    assert two_bit_nonzeros(histogram) == wanted.sum()

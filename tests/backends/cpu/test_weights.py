"""Packed and padded weights: every element at its index, zeros between, and nothing copied without need."""

from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.backends.cpu.packed_sizes import grouped_columns
from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
from bitnet_numba.backends.cpu.weights import DOWN, GATE, OUTPUT, UP, K, Q, V, Weights, load_weights
from bitnet_numba.errors import UnsupportedError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.formats.packing.i2s import pack_i2s
from bitnet_numba.formats.packing.matrices import Matrix, TernaryMatrix, matrix_of, one_scale
from bitnet_numba.model.gguf_source import GGUFSource
from tests.backends.cpu.kernels.twins import unpack
from tests.tiny import ToyModel, toy_model

ODD = {"hidden_size": 160, "n_heads": 5, "n_kv_heads": 1, "head_dim": 20, "intermediate_size": 540}
EVEN = {"hidden_size": 256, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 512}


def loaded(model: ToyModel, folder: Path, kind: TensorType = TensorType.I2_S) -> tuple[PaddedSizes, Weights]:
    source = GGUFSource(model.gguf(kind).write(folder / f"{kind.name}.gguf"))
    sizes = PaddedSizes.of(source.config)
    return sizes, load_weights(source, sizes, 8)


def unpacked(packed: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return unpack(packed, rows, columns, grouped_columns(columns))


def test_every_weight_is_at_its_padded_index(tmp_path: Path) -> None:
    model = toy_model(**ODD)
    sizes, weights = loaded(model, tmp_path)
    heads, kv = sizes.head_indices(5), sizes.head_indices(1)
    assert (sizes.hidden, sizes.ffn, sizes.head_dim, sizes.attn) == (256, 640, 32, 256)
    for layer in range(2):
        of_layer = {role: ternary for (role, at), (ternary, _) in model.linears.items() if at == layer}
        qkv = np.zeros((7 * 32, 256), np.int8)
        qkv[heads, :160] = of_layer["attn_q"]
        qkv[5 * 32 + kv, :160], qkv[6 * 32 + kv, :160] = of_layer["attn_k"], of_layer["attn_v"]
        assert (unpacked(weights.qkv[layer], 224, 256) == qkv).all()
        output = np.zeros((256, 256), np.int8)
        output[:160, heads] = of_layer["attn_output"]
        assert (unpacked(weights.attn_output[layer], 256, 256) == output).all()
        gate_up = np.zeros((2, 640, 256), np.int8)
        gate_up[0, :540, :160], gate_up[1, :540, :160] = of_layer["ffn_gate"], of_layer["ffn_up"]
        assert (unpacked(weights.gate_up[layer], 1280, 256) == gate_up.reshape(1280, 256)).all()
        down = np.zeros((256, 640), np.int8)
        down[:160, :540] = of_layer["ffn_down"]
        assert (unpacked(weights.down[layer], 256, 640) == down).all()


def test_scales_and_norms(tmp_path: Path) -> None:
    model = toy_model(**ODD)
    sizes, weights = loaded(model, tmp_path)
    roles = {
        "attn_q": Q,
        "attn_k": K,
        "attn_v": V,
        "attn_output": OUTPUT,
        "ffn_gate": GATE,
        "ffn_up": UP,
        "ffn_down": DOWN,
    }
    for (role, layer), (_, scale) in model.linears.items():
        assert weights.scales[layer, roles[role]] == scale
    assert (weights.attn_norm[1, :160] == model.norms["attn_norm", 1]).all()
    assert not weights.attn_norm[:, 160:].any()
    assert (weights.attn_sub_norm[0, sizes.head_indices(5)] == model.norms["attn_sub_norm", 0]).all()
    assert np.count_nonzero(weights.attn_sub_norm[0]) == 100
    assert (weights.ffn_sub_norm[1, :540] == model.norms["ffn_sub_norm", 1]).all()
    assert (weights.output_norm[:160] == model.norms["output_norm", None]).all()


def test_a_family_without_sub_norms_has_none(tmp_path: Path) -> None:
    _, weights = loaded(toy_model("llama", **EVEN), tmp_path)
    assert weights.attn_sub_norm.shape == (0, 256)
    assert weights.ffn_sub_norm.shape == (0, 512)


@pytest.mark.parametrize("kind", [TensorType.TQ1_0, TensorType.TQ2_0, TensorType.F16])
@pytest.mark.parametrize("architecture", ["bitnet-b1.58", "llama"])
def test_every_form_of_the_same_weights_packs_to_the_same_bytes(
    architecture: str, kind: TensorType, tmp_path: Path
) -> None:
    model = toy_model(architecture, **EVEN)
    (_, expected), (_, weights) = loaded(model, tmp_path), loaded(model, tmp_path, kind)
    for array, other in zip(weights, expected, strict=True):
        assert array.dtype == other.dtype
        assert (array == other).all()


def test_nothing_can_be_written(tmp_path: Path) -> None:
    """Also what Numba's types see: one compilation serves every source."""
    _, weights = loaded(toy_model(**ODD), tmp_path)
    assert not any(array.flags.writeable for array in weights)
    assert all(array.flags.c_contiguous and array.flags.aligned for array in weights)


def test_an_embedding_that_fits_stays_on_the_pages_of_its_file(tmp_path: Path) -> None:
    _, weights = loaded(toy_model(**EVEN), tmp_path)
    assert not weights.embedding.flags.owndata
    assert weights.head is weights.embedding
    assert np.shares_memory(weights.head, weights.embedding)


def test_groups_of_an_int8_embedding_are_padded_with_it(tmp_path: Path) -> None:
    model = toy_model(embedding_type=TensorType.Q8_0, **ODD)
    _, weights = loaded(model, tmp_path)
    assert weights.embedding_scales.shape == (301, 256 // 32)
    values = weights.embedding.reshape(301, 8, 32) * weights.embedding_scales[:, :, None]
    assert (values.reshape(301, 256)[:, :160] == model.embedding.values).all()
    assert not values.reshape(301, 256)[:, 160:].any()


def test_a_matrix_is_the_same_packed_or_not() -> None:
    weights = np.random.default_rng(0).integers(-1, 2, (6, 256)).astype(np.int8)
    packed = TernaryMatrix(np.float32(2), i2s=pack_i2s(weights, 2.0)[:-32].reshape(6, 64))
    assert (packed.unpacked() == weights).all()
    assert TernaryMatrix(np.float32(2), weights=weights).unpacked() is weights


def test_one_scale_of_many_blocks() -> None:
    weights = np.array([[1, -1, 0, 0], [0, 1, 1, 1]], np.int8)
    scales = np.array([[0.5, 9.0], [0.5, 0.5]], np.float32)  # that of a block of zeros does not matter
    assert one_scale(weights, scales, "here").scale == 0.5
    scales[1, 0] = 0.25
    with pytest.raises(UnsupportedError, match=r"^here: its blocks have different scales, from 0\.25 to 0\.5; "):
        one_scale(weights, scales, "here")


def test_an_unaligned_matrix_is_copied() -> None:
    unaligned = np.frombuffer(bytes(9), np.uint8)[1:].view(np.uint16).reshape(2, 2)
    matrix = matrix_of(unaligned)
    assert isinstance(matrix, Matrix)
    assert matrix.values.flags.aligned
    assert matrix.scales.shape == (2, 0)

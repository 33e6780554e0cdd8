"""Files in F16, BF16 and F32: a dense engine runs them as the same model, and this one to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.backends.protocol import TokenChunk
from bitnet_numba.errors import FormatError, ParameterError, UnsupportedError
from bitnet_numba.export.model import ExportRequest, export_model
from bitnet_numba.export.quantize import QuantizeRequest, quantize_gguf
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.tensor_formats import FORMATS
from bitnet_numba.model.gguf_source import OWN_KEYS, SCALES_KEY, GGUFSource
from bitnet_numba.model.open import open_source
from tests.tiny import ARCHITECTURES, toy_model

FLOATS = ["f16", "bf16", "f32"]
BLOCKS: dict[str, Any] = {"hidden_size": 256, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 512}
N_TOKENS = 40


def exported(directory: Path, kind: str, **options: Any) -> Path:
    out = directory.parent / f"{kind}{'-masters' * options.get('masters', False)}"
    return export_model(ExportRequest(directory, out, kind, **options)).gguf


def quantized(source: Path, kind: str) -> Path:
    return quantize_gguf(QuantizeRequest(source, source.with_name(f"to-{kind}.gguf"), kind)).out


def checkpoint(folder: Path, architecture: str = "bitnet-b1.58", linear_class: str | None = None) -> Path:
    model = toy_model(architecture, has_masters=True, embedding_type=TensorType.BF16, **BLOCKS)
    contents = model.checkpoint(linear_class)
    return contents.write(folder / "toy")


class Dense(NumPyBackend):
    """An engine that knows no ternary weights: it multiplies activations by what the file holds, in floats."""

    def __init__(self, path: Path) -> None:
        self._source = GGUFSource(path)
        super().__init__(self._source)

    def _linear(self, x: Any, role: str, layer: int) -> Any:
        info = self._source.file.tensors[f"blk.{layer}.{role}.weight"]
        weights = FORMATS[info.type].codec.dequantize(self._source.file.data(info.name), info.shape, info.name)
        if self.config.adjacent_pairs and role in ("attn_q", "attn_k"):
            pairs = weights.reshape(-1, self.config.head_dim // 2, 2, self.config.hidden_size)
            weights = pairs.swapaxes(1, 2).reshape(weights.shape)
        return x @ weights.T.astype(np.float64)


def logits(backend: NumPyBackend) -> Any:
    tokens = np.arange(3, 3 + N_TOKENS, dtype=np.int32)
    [rows] = backend.forward([TokenChunk(tokens, backend.new_cache(N_TOKENS), N_TOKENS)])
    return np.stack([row.logits for row in rows])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", FLOATS)
def test_a_dense_engine_runs_the_same_model(kind: str, architecture: str, tmp_path: Path) -> None:
    """Up to the int8 rounding of activations, which it does not do."""
    directory = checkpoint(tmp_path, architecture)
    ours = logits(NumPyBackend(open_source(directory)))
    values = logits(Dense(exported(directory, kind)))
    assert np.corrcoef(ours.ravel(), values.ravel())[0, 1] >= 0.999
    masters = logits(Dense(exported(directory, kind, masters=True)))
    assert np.corrcoef(ours.ravel(), masters.ravel())[0, 1] < 0.95


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("masters", [False, True])
@pytest.mark.parametrize("kind", FLOATS)
def test_quantizing_it_gives_the_bytes_of_the_direct_export(
    kind: str, masters: bool, architecture: str, tmp_path: Path
) -> None:
    directory = checkpoint(tmp_path, architecture)
    direct = exported(directory, "i2_s").read_bytes()
    assert quantized(exported(directory, kind, masters=masters), "i2_s").read_bytes() == direct


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("linear_class", ["autobitlinear", None])
def test_it_runs_the_same_bits(kind: str, linear_class: str | None, tmp_path: Path) -> None:
    directory = checkpoint(tmp_path, "llama", linear_class)
    source, file = open_source(directory), open_source(exported(directory, kind))
    for role in ("attn_v", "ffn_down"):
        assert file.linear(role, 1).scale == source.linear(role, 1).scale
        np.testing.assert_array_equal(file.linear(role, 1).unpacked(), source.linear(role, 1).unpacked())


def test_dequantizing_keeps_the_exact_scale(tmp_path: Path) -> None:
    source = exported(checkpoint(tmp_path), "i2_s")
    floats = quantized(source, "f16")
    assert quantized(floats, "i2_s").read_bytes() == source.read_bytes()
    with open_gguf(floats) as file:
        assert file.metadata[SCALES_KEY][0] == open_source(source).linear("attn_q", 0).scale


def test_a_part_that_stays_in_floats_keeps_its_scales(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path)
    floats = exported(directory, "f16")
    mixed = quantize_gguf(QuantizeRequest(floats, tmp_path / "mixed.gguf", "i2_s", exclude=["blk.0.*"])).out
    assert quantized(mixed, "i2_s").read_bytes() == exported(directory, "i2_s").read_bytes()
    with open_gguf(mixed) as file:
        assert len(file.metadata[SCALES_KEY]) == 7
    with open_gguf(quantized(mixed, "i2_s")) as file:
        assert not set(OWN_KEYS) & file.metadata.keys()


def test_an_edited_value_is_refused(tmp_path: Path) -> None:
    path = exported(checkpoint(tmp_path), "f16")
    with open_gguf(path) as file:
        info = file.tensors["blk.0.ffn_up.weight"]
        offset = info.offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 2] = np.float16(0.125).tobytes()
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"ffn_up\.weight' of layer 0: its values are not 0 and .*, as the file"):
        open_source(path).linear("ffn_up", 0)


def test_masters_are_of_float_types_and_not_packed(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path)
    with pytest.raises(ParameterError, match="--masters is about float types"):
        exported(directory, "i2_s", masters=True)
    (tmp_path / "packed").mkdir()
    with pytest.raises(UnsupportedError, match="packed ternary weights, not masters"):
        exported(checkpoint(tmp_path / "packed", linear_class="autobitlinear"), "f16", masters=True)


def test_masters_that_a_type_would_change_are_refused(tmp_path: Path) -> None:
    model = toy_model(has_masters=True, **BLOCKS)
    contents = model.checkpoint(None)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = np.full((512, 256), 1.0, np.float32)
    weights[::2] = 0.0
    weights[1, :] = np.float32(0.25) + np.float32(2**-13)  # rounds to a quarter: half of the scale, and so to 0
    contents.tensors[name] = "F32", weights
    directory = contents.write(tmp_path / "toy")
    scale = float(open_source(directory).linear("ffn_up", 0).scale)
    weights[3, 0] = np.float32(scale / 2 + 1e-6)
    contents.tensors[name] = "F32", weights
    with pytest.raises(UnsupportedError, match="rounded to BF16, its ternary weights would be others"):
        exported(contents.write(tmp_path / "other"), "bf16", masters=True)

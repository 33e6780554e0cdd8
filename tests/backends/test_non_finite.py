"""Numbers that leave their format end a step with an error that names the place; no cache has then changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet_numba.backends.protocol import Backend, TokenChunk
from bitnet_numba.errors import NonFiniteError
from bitnet_numba.formats.gguf import TensorType
from tests.generate.running import logits_of
from tests.tiny import ToyModel, toy_model

Load = Callable[..., Backend[Any]]
TOKENS = np.arange(5, dtype=np.int32)


def model(architecture: str = "bitnet-b1.58") -> ToyModel:
    return toy_model(architecture, seed=3, embedding_type=TensorType.F32)


def with_scale(toy: ToyModel, role: str, layer: int, factor: float) -> ToyModel:
    weights, scale = toy.linears[role, layer]
    toy.linears[role, layer] = weights, np.float32(scale * factor)
    return toy


def written(toy: ToyModel, folder: Path) -> Path:
    return toy.gguf().write(folder / "toy.gguf")


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_keys_and_values_beyond_float16_name_the_remedy(load_backend: Load, n_tokens: int, tmp_path: Path) -> None:
    plain = load_backend(written(model(), tmp_path), kv_type="f32")
    path = written(with_scale(model(), "attn_v", 1, 1e6), tmp_path)
    backend = load_backend(path)
    cache = backend.new_cache(8)
    with pytest.raises(NonFiniteError, match=r"layer 1: keys or values exceed float16: .* --kv-type f32"):
        backend.forward([TokenChunk(TOKENS[:n_tokens], cache, 1)])
    assert cache.length == 0
    # in float32 it is the same model: the norm after the attention takes the factor away
    expected, logits = logits_of(plain, TOKENS), logits_of(load_backend(path, kv_type="f32"), TOKENS)
    np.testing.assert_allclose(logits, expected, atol=0.1)
    assert np.isfinite(logits_of(load_backend(path, kv_type="int8"), TOKENS)).all()


@pytest.mark.parametrize("role", ["attn_k", "attn_v", "ffn_up", "ffn_down"])
def test_what_float32_does_not_hold_is_refused(load_backend: Load, role: str, tmp_path: Path) -> None:
    toy = with_scale(with_scale(model("llama"), role, 1, 3e38), "attn_output", 1, 1e30)
    toy.norms["ffn_norm", 1] *= np.float32(1e30)
    backend = load_backend(written(toy, tmp_path), kv_type="f32")
    with pytest.raises(NonFiniteError, match=r"^(layer 1|output): .* are infinite or NaN: .*'bitnet-numba inspect'$"):
        backend.forward([TokenChunk(TOKENS, backend.new_cache(8), 1)])

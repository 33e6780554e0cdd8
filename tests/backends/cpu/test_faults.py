"""Each place of the jitted step where a number can become infinite or NaN is named, and ends only its own sequence."""

from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.backends.protocol import TokenChunk
from bitnet_numba.errors import NonFiniteError
from tests.backends.test_non_finite import TOKENS, model, with_scale, written
from tests.generate.running import cpu_backend, logits_of


@pytest.mark.parametrize(
    ("architecture", "role", "layer", "factor", "place"),
    [
        ("bitnet-b1.58", "ffn_down", 0, 1e30, "layer 1: activations before the attention"),
        ("bitnet-b1.58", "attn_output", 0, 1e38, "layer 0: activations before the FFN"),
        ("bitnet-b1.58", "attn_k", 1, 3e38, "layer 1: keys or values"),
        ("bitnet-b1.58", "ffn_up", 1, 1e38, "layer 1: gated activations of the FFN"),
        ("bitnet-b1.58", "ffn_down", 1, 3e38, "output: the final hidden states"),
        ("llama", "ffn_up", 1, 3e38, "layer 1: gated activations of the FFN"),
        ("bitnet-b1.58", "attn_q", 0, 3e38, "layer 0: activations after the attention"),  # scores
    ],
)
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_every_place_is_named(
    architecture: str,
    role: str,
    layer: int,
    factor: float,
    place: str,
    n_tokens: int,
    tmp_path: Path,
) -> None:
    toy = with_scale(model(architecture), role, layer, factor)
    backend = cpu_backend(written(toy, tmp_path), kv_type="f32")
    with pytest.raises(NonFiniteError, match=place):
        backend.forward([TokenChunk(TOKENS[:n_tokens], backend.new_cache(8), 1)])


def test_only_the_sequence_at_fault_ends(tmp_path: Path) -> None:
    toy = model()
    toy.embedding.data.view(np.float32).reshape(toy.embedding.values.shape)[7] = 1e25  # its squares exceed float32
    backend = cpu_backend(written(toy, tmp_path))
    caches = [backend.new_cache(8), backend.new_cache(8)]
    tokens = [np.array([1], np.int32), np.array([7], np.int32)]
    with pytest.raises(NonFiniteError, match="layer 0: activations before the attention"):
        backend.forward([TokenChunk(*chunk) for chunk in zip(tokens, caches, strict=True)])
    assert [cache.length for cache in caches] == [0, 0]
    [[row]] = backend.forward([TokenChunk(tokens[0], caches[0])])
    np.testing.assert_array_equal(row.logits, logits_of(backend, tokens[0])[0])

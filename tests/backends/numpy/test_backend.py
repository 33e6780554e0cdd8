"""The NumPy backend by itself: no Numba, the same logits from every file format, memory, close."""

from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.backends.numpy.load import load_backend
from bitnet_numba.backends.protocol import TokenChunk
from bitnet_numba.errors import ResourceError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.model.config import RopeScaling
from bitnet_numba.model.open import open_source
from bitnet_numba.options import LoadOptions
from tests.golden.test_golden import ANSWERS
from tests.oracle import oracle_logits
from tests.subprocesses import run_python
from tests.tiny import toy_model

ROPE_SCALINGS = [None, RopeScaling(4.0), RopeScaling(8.0, (1.0, 4.0, 16))]


def test_needs_no_numba() -> None:
    program = """
import sys
from bitnet_numba.backends.numpy.load import load_backend
from bitnet_numba.model.open import open_source
assert not {"numba", "llvmlite"} & sys.modules.keys()
"""
    assert run_python("-c", program).stderr == ""


@pytest.mark.parametrize("scaling", ROPE_SCALINGS, ids=["unscaled", "linear", "llama3"])
@pytest.mark.parametrize("architecture", ["bitnet-b1.58", "bitnet", "llama"])
def test_files_hold_the_model_in_memory(architecture: str, scaling: RopeScaling | None, tmp_path: Path) -> None:
    """GGUF has llama's q and k rows in another order, and Llama 3's scaling as a tensor of factors."""
    sizes = {"hidden_size": 128, "n_heads": 2, "n_kv_heads": 1, "intermediate_size": 128}
    toy = toy_model(architecture, rope_scaling=scaling, embedding_type=TensorType.BF16, **sizes)
    tokens = toy.tokens(20)
    for path in (toy.gguf().write(tmp_path / "toy.gguf"), toy.checkpoint().write(tmp_path / "toy")):
        np.testing.assert_array_equal(oracle_logits(open_source(path), tokens), toy.logits(tokens))


@pytest.mark.parametrize("kind", [TensorType.Q8_0, TensorType.F32])
def test_heads_of_their_own(kind: TensorType, tmp_path: Path) -> None:
    toy = toy_model("llama", head_type=kind, embedding_type=TensorType.F16)
    source, tokens = open_source(toy.gguf().write(tmp_path / "toy.gguf")), toy.tokens(20)
    np.testing.assert_allclose(oracle_logits(source, tokens), toy.logits(tokens), rtol=1e-6, atol=1e-6)


def test_the_number_format_of_the_cache_counts() -> None:
    toy = toy_model()
    logits = [toy.logits(toy.tokens(20), kv_type) for kv_type in ("f32", "f16", "int8")]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (logits[first] != logits[second]).any()
        assert np.corrcoef(logits[first].ravel(), logits[second].ravel())[0, 1] > 0.99


def test_takes_the_options_of_loading() -> None:
    backend = load_backend(toy_model(), LoadOptions(kv_type="int8", max_context=9, threads=4))
    assert (backend.kv_type, backend.max_context, backend.threads) == ("int8", 9, 1)
    with pytest.raises(ResourceError, match=r"^10 positions asked for, the context holds 9: "):
        backend.new_cache(10)


def test_memory_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    backend = NumPyBackend(toy_model())
    cache = backend.new_cache(10)
    monkeypatch.setattr(np, "zeros", full)
    with pytest.raises(ResourceError, match=r"^KV cache: no memory for 300 positions; ask for a smaller context$"):
        cache.resize(300)
    assert (cache.capacity, len(cache.pages)) == (10, 1)


def test_counts_each_operator() -> None:
    backend = NumPyBackend(toy_model(n_layers=2))
    backend.forward([TokenChunk(np.arange(3, dtype=np.int32), backend.new_cache(3))])
    counts = dict(zip(backend.kernel_names, backend.counts().tolist(), strict=True))
    assert counts == {
        "numpy_embedding": 1,
        "numpy_rms_norm": 2 * 4 + 1,
        "numpy_quantize_absmax": 2 * 7,
        "numpy_ternary_product": 2 * 7,
        "numpy_rope": 2 * 2,
        "numpy_round_kv": 2 * 2,
        "numpy_attend": 2 * 3,
        "numpy_gated_relu2": 2,
        "numpy_gated_silu": 0,
        "numpy_head_product": 1,
        "numpy_exp": 0,
    }


def test_a_closed_backend_runs_no_step() -> None:
    backend = NumPyBackend(toy_model())
    cache = backend.new_cache(3)
    backend.close()
    with pytest.raises((IndexError, KeyError)):
        backend.forward([TokenChunk(np.arange(3, dtype=np.int32), cache)])


def test_golden_answers_take_the_highest_logits() -> None:
    """But for near ties: float32 arithmetic may round to another int8 code, which moves logits by hundredths."""
    source = open_source("demo")
    tokenizer = source.tokenizer()
    greedy = [answer for answer in ANSWERS if answer["sampling"] == {} and "prompt" in answer]
    assert len(greedy) > 3
    for answer in greedy:
        ids = np.array(answer["token_ids"])
        tokens = np.array([*tokenizer.encode(answer["prompt"]), *ids[:-1]], np.int32)
        logits = oracle_logits(source, tokens)[-ids.size :]
        assert (logits.max(axis=1) - logits[np.arange(ids.size), ids]).max() <= 0.05  # their deviation is 4

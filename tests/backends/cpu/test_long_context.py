"""A file that states a context of millions of positions costs memory only as far as sequences reach."""

from pathlib import Path
from typing import Any

import pytest

import bitnet_numba
from bitnet_numba.errors import FormatError
from bitnet_numba.generate.memory_check import peak_memory_mb
from bitnet_numba.model.config import MAX_CONTEXT, config_from_hf
from bitnet_numba.model.open import open_source
from bitnet_numba.model.rope_scaling import rope_frequencies
from tests.tiny import toy_model


def test_the_longest_context_takes_little_memory(tmp_path: Path) -> None:
    path = toy_model(max_seq_len=MAX_CONTEXT).gguf().write(tmp_path / "toy.gguf")
    short = toy_model(max_seq_len=512).gguf().write(tmp_path / "short.gguf")
    with bitnet_numba.load(short) as model:
        expected = model.generate([1, 2, 3], max_tokens=20).token_ids
    before = peak_memory_mb()
    with bitnet_numba.load(path) as model:
        assert model.max_context == MAX_CONTEXT
        assert model.generate([1, 2, 3], max_tokens=20).token_ids == expected
    assert peak_memory_mb() - before < 300


def test_rows_are_there_across_a_border_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toy_model(max_seq_len=512).gguf().write(tmp_path / "toy.gguf")
    ids = [i % 300 for i in range(200)]
    with bitnet_numba.load(path) as model:
        expected = model.logits(ids, last=True)
    monkeypatch.setattr("bitnet_numba.backends.cpu.kernels.rope.BLOCK_POSITIONS", 64)
    with bitnet_numba.load(path) as model:
        assert (model.logits(ids, 7, last=True) == expected).all()


@pytest.mark.parametrize("theta", [0.0, 0.5, -1.0, 1e13, float("inf"), float("nan")])
def test_a_base_that_means_nothing_is_refused(theta: float) -> None:
    with pytest.raises(FormatError, match="rope_theta is"):
        config_from_hf(toy_model().checkpoint().config | {"rope_theta": theta}, "toy")


@pytest.mark.parametrize("factor", [0.0, 0.2, -4.0, 1e7, float("inf"), float("nan")])
def test_a_factor_that_means_nothing_is_refused(factor: float) -> None:
    scaling: dict[str, Any] = {"rope_type": "linear", "factor": factor}
    with pytest.raises(FormatError, match="rope scaling factor is"):
        config_from_hf(toy_model().checkpoint().config | {"rope_scaling": scaling}, "toy")


@pytest.mark.parametrize("factor", [1e-3, 1e15])
def test_frequencies_that_mean_nothing_are_refused(factor: float, tmp_path: Path) -> None:
    import numpy as np

    from bitnet_numba.formats.gguf_types import TensorType
    from bitnet_numba.formats.gguf_writer import TensorSource

    contents = toy_model().gguf()
    factors = np.full(32, factor, np.float32)
    contents.tensors["rope_freqs.weight"] = TensorSource("rope_freqs.weight", TensorType.F32, (32,), lambda: factors)
    with pytest.raises(FormatError, match=r"RoPE frequencies from .* radians a position"):
        rope_frequencies(open_source(contents.write(tmp_path / "toy.gguf")))

"""From a name to a model that runs: which file, how many threads, how much context, and toy models end to end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.errors import BitNetError, FormatError, ParameterError, ResourceError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.generate.assemble import MAX_THREADS, choose_context, choose_threads
from bitnet_numba.generate.load import load_model
from bitnet_numba.model.open import open_source
from tests.tiny import ARCHITECTURES, toy_model
from tests.tiny_files import BEGIN


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_formats_run_from_text_to_text(architecture: str, tmp_path: Path) -> None:
    toy = toy_model(architecture, embedding_type=TensorType.BF16)
    results = []
    for path in (toy.gguf().write(tmp_path / "toy.gguf"), toy.checkpoint().write(tmp_path / "toy")):
        with bitnet_numba.load(path, threads=2) as model:
            ids = model.tokenize("hello there")
            assert ids[0] == BEGIN
            assert model.detokenize(ids) == "hello there"
            logits = model.logits(ids)
            assert logits.shape == (len(ids), 301)
            result = model.generate("hello there", max_tokens=8)
            assert result.token_ids[0] == logits[-1].argmax()
            results.append((ids, result.token_ids, result.text))
    assert results[0] == results[1]


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    contents = toy_model().checkpoint()
    contents.files["tokenizer.json"] = toy_model(vocab_size=302).checkpoint().files["tokenizer.json"]
    path = contents.write(tmp_path / "toy")
    with pytest.raises(FormatError, match=r"toy: the tokenizer has 302 tokens, the embedding 301 rows; "):
        load_model(path)


def test_special_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    contents = toy_model().gguf()
    contents.metadata["tokenizer.ggml.eos_token_id"] = 301
    with pytest.raises(FormatError, match=r"tokenizer\.ggml\.eos_token_id: 301 is no id of a vocabulary of 301"):
        load_model(contents.write(tmp_path / "toy.gguf"))


@pytest.mark.parametrize("kv_type", ["f64", "", "F16"])
def test_refuses_other_caches(kv_type: Any) -> None:
    with pytest.raises(ParameterError, match=f"^kv_type '{kv_type}': choose one of f16, f32, int8$"):
        load_model(kv_type=kv_type)


# ---- which file ------------------------------------------------------------------------------------------------------
def test_finds_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = toy_model(hidden_size=64).gguf(TensorType.F16).write(tmp_path / "toy.gguf")
    directory = toy_model(hidden_size=192).checkpoint().write(tmp_path / "toy")
    monkeypatch.delenv("BITNET_GGUF", raising=False)
    assert open_source(None).path == open_source("demo").path
    assert open_source(str(directory)).config.hidden_size == 192
    monkeypatch.setenv("BITNET_GGUF", str(file))
    assert open_source(None).config.hidden_size == 64
    assert open_source("demo").path.name.startswith("bitnet-demo")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("~/toy.gguf").path == file


def test_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BitNetError, match=r"none\.gguf: no such model; name a \.gguf file or a directory"):
        open_source(tmp_path / "none.gguf")
    with pytest.raises(BitNetError, match=r"config\.json: no such file; a Hugging Face model needs it"):
        open_source(tmp_path)


# ---- how much --------------------------------------------------------------------------------------------------------
def test_chooses_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITNET_NUM_THREADS", raising=False)
    assert choose_threads(None) == min(cpu.usable_cores(), MAX_THREADS)
    assert choose_threads(7) == 7
    monkeypatch.setenv("BITNET_NUM_THREADS", "3")
    assert choose_threads(None) == 3
    assert choose_threads(1) == 1


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1, True, 2.0, "2"])
def test_refuses_threads(threads: Any) -> None:
    with pytest.raises(
        ParameterError, match=f"^threads is {threads}, expected a whole number from 1 to {MAX_THREADS}$"
    ):
        choose_threads(threads)


def test_chooses_a_context(tmp_path: Path) -> None:
    source = open_source(toy_model(max_seq_len=64).gguf().write(tmp_path / "toy.gguf"))
    assert choose_context(None, source) == 64
    assert choose_context(5, source) == 5


@pytest.mark.parametrize("context", [0, -1, 65, True, 5.0])
def test_refuses_a_context(context: Any, tmp_path: Path) -> None:
    source = open_source(toy_model(max_seq_len=64).gguf().write(tmp_path / "toy.gguf"))
    with pytest.raises(ParameterError, match=f"^max_context is {context}, the model holds 1 to 64 positions$"):
        choose_context(context, source)


def test_a_smaller_context_gives_the_same_bits_and_ends_sooner(tmp_path: Path) -> None:
    path = toy_model(max_seq_len=64).gguf().write(tmp_path / "toy.gguf")
    with load_model(path) as whole, load_model(path, max_context=20) as part:
        assert (whole.logits(list(range(20))) == part.logits(list(range(20)))).all()
        with pytest.raises(ResourceError, match=r"21.* 20"):
            part.logits(list(range(21)))


def test_an_endless_context_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """A file of a few kilobytes may claim a context whose tables no machine holds."""
    path = (
        toy_model(n_heads=1, head_dim=10_000, max_seq_len=2**24 - 1).gguf(TensorType.F16).write(tmp_path / "toy.gguf")
    )
    with pytest.raises(ResourceError, match=r"toy\.gguf: RoPE for 16,777,215 positions needs .* are free; ask for a"):
        load_model(path)
    with load_model(path, max_context=2) as model:
        assert np.isfinite(model.logits([1, 2])).all()

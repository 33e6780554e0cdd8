"""From a name to a model that runs: which file, how many threads, how much context, and toy models end to end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba.backends.cpu import load as load_room
from bitnet_numba.backends.cpu.load import MIN_THREAD_BYTES, choose_threads
from bitnet_numba.errors import BitNetError, FormatError, ParameterError, ResourceError, TemplateError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.generate.load import BackendName, load_model
from bitnet_numba.machine_limits import CoreLimit
from bitnet_numba.model.open import open_source
from bitnet_numba.options import MAX_THREADS, LoadOptions
from tests.subprocesses import run_python
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
        load_model(open_source(path))


def test_special_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    contents = toy_model().gguf()
    contents.metadata["tokenizer.ggml.eos_token_id"] = 301
    with pytest.raises(FormatError, match=r"tokenizer\.ggml\.eos_token_id: 301 is no id of a vocabulary of 301"):
        load_model(open_source(contents.write(tmp_path / "toy.gguf")))


@pytest.mark.parametrize("options", [{"kv_type": "f64"}, {"head": "int8"}, {"threads": 0}, {"cached_prefixes": 65}])
def test_refuses_options_before_the_model_is_opened(options: Any) -> None:
    with pytest.raises(ParameterError, match=f"^{next(iter(options))}=.*: expected "):
        bitnet_numba.load("/no/such/model.gguf", **options)
    with pytest.raises(ParameterError, match="kept_prefixes: no such parameter; did you mean cached_prefixes"):
        bitnet_numba.load("demo", kept_prefixes=4)  # type: ignore[call-arg]


def test_tokenizer_and_template_are_checked_before_any_backend_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_numba.backends.cpu.load.load_backend", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(TemplateError, match="none\\.jinja"):
        load_model(open_source("demo"), LoadOptions(chat_template="none.jinja"))


def test_numba_is_imported_only_with_the_backend() -> None:
    code = (
        "import sys; from bitnet_numba.generate import load; from bitnet_numba.model.open import open_source;"
        "open_source('demo').tokenizer(); import bitnet_numba.backends.cpu.load; print('numba' in sys.modules)"
    )
    assert run_python("-c", code).stdout == "False\n"


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_options_reach_the_named_backend(backend: BackendName, tmp_path: Path) -> None:
    source = open_source(toy_model(max_seq_len=64).gguf().write(tmp_path / "toy.gguf"))
    options = LoadOptions(threads=1, kv_type="f32", max_context=8, head="full", cached_prefixes=0)
    with load_model(source, options, backend=backend) as model:
        assert (model.isa == "numpy", model.threads, model.max_context) == (backend == "numpy", 1, 8)
        assert model.info()["memory"]["cached_prefixes_at_most"] == 0
        assert model.generate([1, 2], max_tokens=2, ignore_eos=True).head == "full"


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


STAND_INS = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "is a Git LFS pointer.*git lfs pull",
    "\n<!DOCTYPE html><html></html>": "is a web page.*/resolve/ instead of /blob/",
}


@pytest.mark.parametrize(("content", "reason"), STAND_INS.items())
@pytest.mark.parametrize("name", ["toy.gguf", "toy/config.json", "toy/tokenizer.json", "toy/model.safetensors"])
def test_names_what_lies_where_a_file_should_be(tmp_path: Path, name: str, content: str, reason: str) -> None:
    toy_model(hidden_size=64).checkpoint().write(tmp_path / "toy")
    (tmp_path / name).write_text(content)
    with pytest.raises(BitNetError, match=f"{Path(name).name}: {reason}"):
        open_source(tmp_path / name.split("/")[0]).tokenizer()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "name is empty; name a .gguf file"),
        (" ", "name is empty"),
        ("https://huggingface.co/org/name/blob/main/x.gguf", "is an address.*'bitnet-numba pull org/name'"),
        ("http://example.org/x.gguf", "is an address, not a file; download it"),
    ],
)
def test_refuses_names_that_are_no_files(name: str, reason: str) -> None:
    with pytest.raises(BitNetError, match=reason):
        open_source(name)


def test_names_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(
        BitNetError, match=r"is a folder without config\.json; name the file in it: .*a\.gguf, or one of 1 more"
    ):
        open_source(tmp_path)


# ---- how much --------------------------------------------------------------------------------------------------------
def test_chooses_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITNET_NUM_THREADS", raising=False)
    monkeypatch.setattr(load_room, "usable_cores", lambda: CoreLimit(12, "CPU affinity"))
    large = 1 << 30
    assert choose_threads(LoadOptions(), large) == (12, "CPU affinity")
    assert choose_threads(LoadOptions(), 3 * MIN_THREAD_BYTES) == (3, "size of the model")
    assert choose_threads(LoadOptions(), 1000) == (1, "size of the model")
    assert choose_threads(LoadOptions(threads=7), 1000) == (7, "as asked")
    monkeypatch.setattr(load_room, "usable_cores", lambda: CoreLimit(1000, "CPU affinity"))
    assert choose_threads(LoadOptions(), 1 << 40).cores == MAX_THREADS
    monkeypatch.setenv("BITNET_NUM_THREADS", "3")
    assert choose_threads(LoadOptions(), 1000) == (3, "BITNET_NUM_THREADS")
    assert choose_threads(LoadOptions(threads=1), large).cores == 1


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_refuses_a_longer_context_than_the_models(backend: BackendName, tmp_path: Path) -> None:
    source = open_source(toy_model(max_seq_len=64).gguf().write(tmp_path / "toy.gguf"))
    with pytest.raises(ParameterError, match=r"^max_context=65: the model holds 1 to 64 positions; ask for fewer$"):
        load_model(source, LoadOptions(max_context=65), backend=backend)


def test_a_smaller_context_gives_the_same_bits_and_ends_sooner(tmp_path: Path) -> None:
    path = toy_model(max_seq_len=64).gguf().write(tmp_path / "toy.gguf")
    with bitnet_numba.load(path) as whole, bitnet_numba.load(path, max_context=20) as part:
        assert (whole.logits(list(range(20))) == part.logits(list(range(20)))).all()
        with pytest.raises(ResourceError, match=r"21.* 20"):
            part.logits(list(range(21)))


def test_an_endless_context_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """A file of a few kilobytes may claim a context whose tables no machine holds."""
    path = (
        toy_model(n_heads=1, head_dim=10_000, max_seq_len=2**24 - 1).gguf(TensorType.F16).write(tmp_path / "toy.gguf")
    )
    with pytest.raises(ResourceError, match=r"RoPE for 16,777,215 positions: no memory for 672\.\d+ GB; close other"):
        bitnet_numba.load(path)
    with bitnet_numba.load(path, max_context=2) as model:
        assert np.isfinite(model.logits([1, 2])).all()

"""Models in Hugging Face directories: what is refused, by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
from bitnet_numba.backends.cpu.weights import load_weights
from bitnet_numba.errors import BitNetError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.formats.json_file import MAX_BYTES
from bitnet_numba.model.hf_source import HuggingFaceSource
from tests.model.directory_cases import BAD_DIRECTORIES, good_directory
from tests.tiny import toy_model


def load(path: Path) -> None:
    """Read everything that a model directory holds."""
    source = HuggingFaceSource(path)
    load_weights(source, PaddedSizes.of(source.config), 8)


def test_takes_the_good_model(tmp_path: Path) -> None:
    load(good_directory().write(tmp_path / "toy"))


@pytest.mark.parametrize("case", BAD_DIRECTORIES)
def test_refuses(case: str, tmp_path: Path) -> None:
    spoil, words = BAD_DIRECTORIES[case]
    model = good_directory()
    spoil(model)
    path = model.write(tmp_path / "toy")
    with pytest.raises(BitNetError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file; a Hugging Face model needs it beside its weights"),
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff{}", "not UTF-8 after 0 bytes"),
        (b'{"a":' * 100_000, "not JSON: nested too deep"),
        (b'{"num_hidden_layers": ' + b"9" * 5000 + b"}", "not JSON"),
        (b" " * (MAX_BYTES + 1), "at most 16,777,216 are read"),
    ],
    ids=["missing", "empty", "list", "not UTF-8", "deep", "number of 5,000 digits", "huge"],
)
def test_refuses_a_configuration(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BitNetError) as caught:
        HuggingFaceSource(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_refuses_a_directory_without_weights(tmp_path: Path) -> None:
    path = good_directory().write(tmp_path / "toy")
    (path / "model.safetensors").unlink()
    with pytest.raises(BitNetError, match=r"neither model\.safetensors nor"):
        HuggingFaceSource(path)


def test_a_tied_model_may_repeat_its_embedding_as_a_head(tmp_path: Path) -> None:
    model = good_directory()
    model.tensors["lm_head.weight"] = model.tensors["model.embed_tokens.weight"]
    source = HuggingFaceSource(model.write(tmp_path / "toy"))
    assert source.tied


@pytest.mark.parametrize("head_type", [None, TensorType.F16])
def test_without_a_word_on_it_the_head_is_tied_if_it_is_not_there(head_type: TensorType | None, tmp_path: Path) -> None:
    model = toy_model("llama", head_type=head_type).checkpoint()
    del model.config["tie_word_embeddings"]
    assert HuggingFaceSource(model.write(tmp_path / "toy")).tied == (head_type is None)


def test_names_of_1bitllm(tmp_path: Path) -> None:
    """Its checkpoints have other names for the sub-norms, and keep the frequencies of RoPE."""
    model = toy_model("bitnet")
    contents = model.checkpoint()
    names = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
    for name in list(contents.tensors):
        for ours, theirs in names.items():
            if ours in name:
                contents.tensors[name.replace(ours, theirs)] = contents.tensors.pop(name)
    contents.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = "F32", np.ones(32, np.float32)
    source = HuggingFaceSource(contents.write(tmp_path / "toy"))
    for role in names:
        assert (source.norm(role, 1) == model.norms[role, 1]).all()


def test_tells_what_it_holds(tmp_path: Path) -> None:
    path = good_directory().write(tmp_path / "toy")
    settings = {"chat_template": "{{ messages }}", "add_bos_token": True}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    source = HuggingFaceSource(path)
    assert source.tensor_types() == {"BF16": 1 + 14, "F32": 9, "U8": 14}
    assert source.chat_template == "{{ messages }}"
    assert source.rope_factors() is None
    assert source.tokenizer().encode("hello", add_bos=False)
    source.close()

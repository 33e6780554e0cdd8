"""Checkpoints that export refuses: each with words of its one-line error, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.export.gguf import export_gguf
from bitnet_numba.formats.json_file import MAX_BYTES
from tests.tiny import toy_checkpoint
from tests.tiny_files import END, HuggingFaceModel
from tests.tiny_files import MIN_VOCABULARY as VOCAB_SIZE

Spoil = Callable[[HuggingFaceModel], None]

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
HIDDEN = 128
NAN, INFINITY = 0x7FC0, 0xFF80  # as bfloat16


def value(name: str, bits: int) -> Spoil:
    def spoil(checkpoint: HuggingFaceModel) -> None:
        checkpoint.tensors[name][1].reshape(-1)[-1] = bits

    return spoil


def missing(name: str) -> Spoil:
    def spoil(checkpoint: HuggingFaceModel) -> None:
        del checkpoint.tensors[name]

    return spoil


def extra(name: str) -> Spoil:
    def spoil(checkpoint: HuggingFaceModel) -> None:
        checkpoint.tensors[name] = "F32", np.zeros(4, np.float32)

    return spoil


def config(key: str, content: object) -> Spoil:
    def spoil(checkpoint: HuggingFaceModel) -> None:
        checkpoint.config[key] = content

    return spoil


def model(key: str, content: object) -> Spoil:
    def spoil(checkpoint: HuggingFaceModel) -> None:
        checkpoint.tokenizer["model"][key] = content

    return spoil


def added(**content: object) -> Spoil:
    def spoil(checkpoint: HuggingFaceModel) -> None:
        checkpoint.tokenizer["added_tokens"][-1] |= content

    return spoil


def pack(checkpoint: HuggingFaceModel) -> None:
    packed = toy_checkpoint(linear_class="autobitlinear")
    checkpoint.files, checkpoint.tensors = packed.files, packed.tensors


def packed_scale(scale: float) -> Spoil:
    def spoil(checkpoint: HuggingFaceModel) -> None:
        pack(checkpoint)
        checkpoint.tensors[f"{Q_PROJ}_scale"] = "F32", np.array([scale], np.float32)

    return spoil


def packed_without_scale(checkpoint: HuggingFaceModel) -> None:
    pack(checkpoint)
    del checkpoint.tensors[f"{Q_PROJ}_scale"]


def packed_code_3(checkpoint: HuggingFaceModel) -> None:
    pack(checkpoint)
    checkpoint.tensors[Q_PROJ][1][2, 3] = 0b11


def wrong_shape(checkpoint: HuggingFaceModel) -> None:
    checkpoint.tensors[Q_PROJ] = "BF16", np.zeros((HIDDEN, HIDDEN // 2), np.uint16)


def integer_norm(checkpoint: HuggingFaceModel) -> None:
    checkpoint.tensors["model.norm.weight"] = "I32", np.ones(HIDDEN, np.int32)


def swapped_splitter(checkpoint: HuggingFaceModel) -> None:
    checkpoint.tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"


def unreachable_token(checkpoint: HuggingFaceModel) -> None:
    checkpoint.tokenizer["model"] |= {"ignore_merges": False, "merges": [["h", "e"], ["l", "l"], ["he", "ll"]]}


def no_end(checkpoint: HuggingFaceModel) -> None:
    del checkpoint.config["eos_token_id"]
    del checkpoint.files["generation_config.json"]


def normalizer(checkpoint: HuggingFaceModel) -> None:
    checkpoint.tokenizer["normalizer"] = {"type": "NFC"}


def endless_token(checkpoint: HuggingFaceModel) -> None:
    checkpoint.tokenizer["model"]["ignore_merges"] = False
    checkpoint.tokenizer["model"]["vocab"] |= {f"{number:01000}": VOCAB_SIZE + number for number in range(101)}


def token_with_two_ids(checkpoint: HuggingFaceModel) -> None:
    checkpoint.tokenizer["added_tokens"][-1]["content"] = "hello"


def quantization(key: str, content: object) -> Spoil:
    def spoil(checkpoint: HuggingFaceModel) -> None:
        checkpoint.config["quantization_config"][key] = content

    return spoil


# name: (what is spoilt, kind of error, words of its message)
CASES: dict[str, tuple[Spoil, type[BitNetError], str]] = {
    "NaN in a linear layer": (value(Q_PROJ, NAN), FormatError, f"tensor '{Q_PROJ}': nan at (127, 127)"),
    "infinity in a norm": (value("model.norm.weight", INFINITY), FormatError, "'model.norm.weight': -inf at (127,)"),
    "NaN in the embedding": (value("model.embed_tokens.weight", NAN), FormatError, "'model.embed_tokens.weight': nan"),
    "missing linear layer": (
        missing(Q_PROJ),
        FormatError,
        "'attn_q.weight' of layer 1 is missing; get the whole model again",
    ),
    "missing sub-norm": (
        missing("model.layers.0.mlp.ffn_sub_norm.weight"),
        FormatError,
        "'ffn_sub_norm.weight' of layer 0 is missing",
    ),
    "one layer too few": (
        config("num_hidden_layers", 3),
        FormatError,
        "'attn_norm.weight' of layer 2 is missing",
    ),
    "one layer too many": (
        config("num_hidden_layers", 1),
        FormatError,
        "of layer 1 does not belong to this architecture",
    ),
    "unknown tensor": (
        extra("model.surprise"),
        FormatError,
        "tensor 'model.surprise' does not belong to this architecture",
    ),
    "scale of a layer that is not packed": (
        extra(f"{Q_PROJ}_scale"),
        FormatError,
        "'attn_q.scale' of layer 1 does not belong",
    ),
    "wrong shape": (wrong_shape, FormatError, "has the shape (128, 64), the model needs (128, 128)"),
    "integers for a norm": (integer_norm, UnsupportedError, "holds I32"),
    "packed without a scale": (packed_without_scale, FormatError, "'attn_q.scale' of layer 1 is missing"),
    "packed with the scale 0": (packed_scale(0), FormatError, "'attn_q.weight' of layer 1: its scale is 0.0"),
    "packed with a negative scale": (packed_scale(-1), FormatError, "its scale is -1.0"),
    "packed with the scale NaN": (packed_scale(np.nan), FormatError, "its scale is nan"),
    "packed with the code 3": (packed_code_3, FormatError, "code 3"),
    "another family": (
        config("architectures", ["GPT2LMHeadModel"]),
        UnsupportedError,
        "architectures ['GPT2LMHeadModel']",
    ),
    "architectures of the wrong kind": (
        config("architectures", [{}]),
        UnsupportedError,
        "architectures [{}] without BitNet",
    ),
    "another activation": (
        config("hidden_act", "silu"),
        UnsupportedError,
        "activation is silu, but GGUF files of architecture 'bitnet-b1.58' mean relu2",
    ),
    "biases": (config("attention_bias", True), UnsupportedError, "attention_bias"),
    "scaled rope": (
        config("rope_scaling", {"rope_type": "yarn", "factor": 2}),
        UnsupportedError,
        "rope scaling 'yarn'",
    ),
    "another quantization": (quantization("quant_method", "gptq"), UnsupportedError, "key 'quant_method' is 'gptq'"),
    "a norm in each linear": (quantization("use_rms_norm", True), UnsupportedError, "use_rms_norm"),
    "heads of no whole width": (
        config("num_attention_heads", 3),
        FormatError,
        "has the shape (128, 128), the model needs (126, 128)",
    ),
    "heads that cannot share": (
        config("num_key_value_heads", 3),
        FormatError,
        "2 attention heads cannot share 3 key-value heads evenly",
    ),
    "another head width": (config("head_dim", 32), FormatError, "has the shape (128, 128), the model needs (64, 128)"),
    "tying left open": (
        config("tie_word_embeddings", None),  # false, and there is no head
        FormatError,
        "tensor 'output.weight' is missing",
    ),
    "size as text": (config("hidden_size", "128"), FormatError, "'hidden_size': expected int, got str"),
    "size true": (config("hidden_size", True), FormatError, "'hidden_size': expected int, got bool"),
    "no layers": (config("num_hidden_layers", 0), FormatError, "n_layers is 0"),
    "negative epsilon": (config("rms_norm_eps", -1e-5), FormatError, "rms_norm_eps is -1e-05"),
    "tying as text": (
        config("tie_word_embeddings", "yes"),
        FormatError,
        "'tie_word_embeddings': expected true or false, got 'yes'",
    ),
    "merges of the wrong kind": (model("merges", {}), FormatError, "merges is {}, expected a list"),
    "a normalizer": (normalizer, UnsupportedError, "a normalizer has no name in GGUF"),
    "tokens too long to be checked": (endless_token, UnsupportedError, "too long for the merges to be checked"),
    "an embedding of another size": (config("vocab_size", VOCAB_SIZE + 1), FormatError, "the model needs (265, 128)"),
    "a token beyond the embedding": (added(id=VOCAB_SIZE), FormatError, "264 tokens with ids up to 264"),
    "an id of two tokens": (added(id=END), FormatError, "added_tokens 3: id is 261, expected an id of its own"),
    "a token with two ids": (token_with_two_ids, FormatError, "a token has two ids"),
    "begin token beyond the vocabulary": (config("bos_token_id", 9999), FormatError, "the bos token 9,999"),
    "begin token as text": (config("bos_token_id", "x"), FormatError, "bos_token_id is 'x'"),
    "end tokens as text": (config("eos_token_id", ["x"]), FormatError, "eos_token_id is ['x']"),
    "no end token": (no_end, FormatError, "eos_token_id is missing"),
    "too many end tokens": (config("eos_token_id", [END, 1, 2]), UnsupportedError, "eos_token_id names token 2 too"),
    "another tokenizer model": (model("type", "Unigram"), UnsupportedError, "only byte-pair encodings"),
    "byte fallback of bytes": (model("byte_fallback", True), UnsupportedError, "treat spaces unlike GGUF readers"),
    "an added token with spaces": (added(lstrip=True), UnsupportedError, "added_tokens 3: lstrip has no name"),
    "marks at word ends": (model("end_of_word_suffix", "</w>"), UnsupportedError, "end_of_word_suffix"),
    "merges of three": (model("merges", [["a", "b", "c"]]), FormatError, "merges is ['a', 'b', 'c']"),
    "merges with spaces": (model("merges", [["a ", "b"]]), FormatError, "expected pairs without spaces"),
    "unknown word rule": (swapped_splitter, UnsupportedError, "neither the rule of Llama 3 nor that of GPT-2"),
    "token that merges never make": (unreachable_token, UnsupportedError, "no merges lead to token 'hello'"),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    spoil, kind, words = CASES[name]
    checkpoint = toy_checkpoint()
    spoil(checkpoint)
    source, out = checkpoint.write(tmp_path / "toy"), tmp_path / "out"
    out.mkdir()
    with pytest.raises(kind) as caught:
        export_gguf(source, out / "model.gguf")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_a_refusal_leaves_an_older_file_as_it_was(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    value(Q_PROJ, NAN)(checkpoint)
    out = tmp_path / "model.gguf"
    out.write_bytes(b"older")
    with pytest.raises(FormatError):
        export_gguf(checkpoint.write(tmp_path / "toy"), out)
    assert out.read_bytes() == b"older"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    source = toy_checkpoint().write(tmp_path / "toy")
    (source / name).unlink()
    with pytest.raises(BitNetError, match=name):
        export_gguf(source, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"{", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8 after 7 bytes"),
        (b"[" * 100_000, "not JSON: nested too deep"),
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
    ],
)
def test_a_broken_json_file_is_named(contents: bytes, words: str, tmp_path: Path) -> None:
    source = toy_checkpoint().write(tmp_path / "toy")
    (source / "generation_config.json").write_bytes(contents)
    with pytest.raises(FormatError, match=rf"generation_config.json: {words}"):
        export_gguf(source, tmp_path / "model.gguf")


def test_a_file_of_endless_size_is_not_parsed(tmp_path: Path) -> None:
    source = toy_checkpoint().write(tmp_path / "toy")
    with (source / "generation_config.json").open("wb") as sparse:
        sparse.truncate(MAX_BYTES + 1)
    with pytest.raises(FormatError, match="at most 16,777,216"):
        export_gguf(source, tmp_path / "model.gguf")

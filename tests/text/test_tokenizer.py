"""Tokenizers from GGUF arrays and from tokenizer.json: the same ids, safe specials, and what is refused."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import BitNetError, FormatError, ParameterError, UnsupportedError
from bitnet_numba.text.tokenizer import (
    MAX_TEXT_LENGTH,
    tokenizer_from_file,
    tokenizer_from_gguf,
)
from bitnet_numba.text.vocabulary import BYTE_ALPHABET, spelling_of_bytes
from tests.text.vocabularies import DEMO_DIRECTORY, demo_metadata

FROM_JSON = tokenizer_from_file(DEMO_DIRECTORY / "tokenizer.json")
FROM_GGUF = tokenizer_from_gguf(demo_metadata())
PACKAGE = tokenizers.Tokenizer.from_file(str(DEMO_DIRECTORY / "tokenizer.json"))

TEXTS = st.text(max_size=80) | st.text("Once upon a time's 123\n<|eot_id|>é日👍", max_size=80)


@given(text=TEXTS)
def test_gguf_json_and_the_package_agree(text: str) -> None:
    ids = FROM_JSON.encode(text)
    assert ids == FROM_GGUF.encode(text)
    if "<|" not in text:
        assert ids == PACKAGE.encode(text).ids


@given(text=st.lists(st.sampled_from(["a", " b", "<|eot_id|>", "<|pad|>", "<|", "\n"]), max_size=8).map("".join))
def test_parsed_specials_agree_with_the_package(text: str) -> None:
    ids = FROM_JSON.encode(text, add_bos=False, parse_special=True)
    assert ids == PACKAGE.encode(text, add_special_tokens=False).ids
    assert FROM_JSON.decode(ids, skip_special=False) == text


@given(text=TEXTS)
def test_plain_text_comes_back_and_holds_no_special_token(text: str) -> None:
    ids = FROM_JSON.encode(text, add_bos=False)
    assert not FROM_JSON.special_ids & set(ids)
    assert FROM_JSON.decode(ids) == text


@given(ids=st.lists(st.integers(0, 4095), max_size=30))
def test_streaming_gives_the_text_in_whole_characters(ids: list[int]) -> None:
    decoder = FROM_JSON.stream_decoder()
    pieces = [decoder.push(token_id) for token_id in ids]
    assert "".join(pieces) + decoder.finish() == FROM_JSON.decode(ids) == PACKAGE.decode(ids)


def test_streaming_holds_back_half_a_character() -> None:
    ids = FROM_JSON.encode("日", add_bos=False)
    assert len(ids) > 1
    decoder = FROM_JSON.stream_decoder()
    assert [decoder.push(token_id) for token_id in ids] == [""] * (len(ids) - 1) + ["日"]
    unfinished = FROM_JSON.stream_decoder()
    assert (unfinished.push(ids[0]), unfinished.finish()) == ("", "�")


@pytest.mark.parametrize("tokenizer", [FROM_JSON, FROM_GGUF])
def test_what_the_files_say(tokenizer: Any) -> None:
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (4096, 4092, 4093)
    assert (tokenizer.eos_ids, tokenizer.add_bos, tokenizer.notes) == ({4093, 4094}, True, ())
    assert tokenizer.special_ids == {4092, 4093, 4094, 4095}
    assert tokenizer.token_id("<|eot_id|>") == 4094
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.token_text(4094) == "<|eot_id|>"
    assert tokenizer.token_bytes(tokenizer.token_id("Ġthe")) == b" the"


def test_the_first_token_stands_there_once() -> None:
    assert FROM_JSON.encode("a")[0] == 4092
    assert FROM_JSON.encode("a", add_bos=False)[0] != 4092
    assert FROM_JSON.encode("<|begin_of_text|>a", parse_special=True).count(4092) == 1
    assert FROM_JSON.encode("<|begin_of_text|>a").count(4092) == 1
    without = tokenizer_from_gguf(demo_metadata() | {"tokenizer.ggml.add_bos_token": False})
    assert 4092 not in without.encode("a")


def test_parsing_on_one_thread_does_not_leak_into_another() -> None:
    expected = [FROM_JSON.encode("x<|eot_id|>y", parse_special=parse) for parse in (False, True)]
    wrong: list[list[int]] = []

    def work(parse: bool) -> None:
        for _ in range(200):
            ids = FROM_JSON.encode("x<|eot_id|>y", parse_special=parse)
            if ids != expected[parse]:
                wrong.append(ids)

    threads = [threading.Thread(target=work, args=(parse,)) for parse in (False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert expected[0] != expected[1]


@pytest.mark.parametrize(("pre", "word"), [("gpt-2", "1234"), ("llama-bpe", "1234"), ("falcon3", "1234")])
def test_pre_tokenizers_split_digits_their_way(pre: str, word: str) -> None:
    metadata = demo_metadata() | {"tokenizer.ggml.pre": pre}
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    for whole, parts in (("12", "1 2"), ("123", "12 3"), ("1234", "123 4")):
        if whole not in tokens:
            metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 1]
            tokens = metadata["tokenizer.ggml.tokens"] = [*tokens, whole]
            merges = metadata["tokenizer.ggml.merges"] = [*merges, parts]
    tokenizer = tokenizer_from_gguf(metadata)
    pieces = [tokenizer.token_text(i) for i in tokenizer.encode(word, add_bos=False)]
    assert pieces == (["1234"] if pre == "gpt-2" else ["123", "4"])


def test_a_missing_pre_is_told() -> None:
    metadata = {key: value for key, value in demo_metadata().items() if key != "tokenizer.ggml.pre"}
    assert "llama-bpe" in tokenizer_from_gguf(metadata).notes[0]
    metadata["tokenizer.ggml.tokens"] = [text.replace("<|", "<") for text in metadata["tokenizer.ggml.tokens"]]
    metadata["tokenizer.ggml.merges"] = [
        line for line in metadata["tokenizer.ggml.merges"] if "<|" not in line.replace(" ", "")
    ]
    assert "gpt-2" in tokenizer_from_gguf(metadata).notes[0]


def test_user_defined_tokens_are_always_read() -> None:
    metadata = demo_metadata()
    types = list(metadata["tokenizer.ggml.token_type"])
    types[4095] = 4
    tokenizer = tokenizer_from_gguf(metadata | {"tokenizer.ggml.token_type": types})
    assert 4095 in tokenizer.encode("a<|pad|>b")
    assert 4094 not in tokenizer.encode("a<|eot_id|>b")
    assert tokenizer.decode(tokenizer.encode("a<|pad|>b")) == "a<|pad|>b"


def test_added_tokens_may_swallow_white_space(tmp_path: Path) -> None:
    document = json.loads((DEMO_DIRECTORY / "tokenizer.json").read_text())
    document["added_tokens"][2] |= {"lstrip": True, "rstrip": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    package = tokenizers.Tokenizer.from_str(json.dumps(document))
    tokenizer = tokenizer_from_file(tmp_path / "tokenizer.json")
    for text in ("a  <|eot_id|> \n b", "<|eot_id|> <|eot_id|>", "a <|pad|> b"):
        assert tokenizer.encode(text, parse_special=True) == package.encode(text).ids


def test_a_special_token_cannot_be_made_by_merging() -> None:
    metadata = demo_metadata()
    tokens = metadata["tokenizer.ggml.tokens"]
    special = tokens.index("he")
    types = list(metadata["tokenizer.ggml.token_type"])
    types[special] = 3
    tokenizer = tokenizer_from_gguf(metadata | {"tokenizer.ggml.token_type": types})
    ids = tokenizer.encode("he the", add_bos=False)
    assert special not in ids
    assert tokenizer.decode(ids) == "he the"


BROKEN_METADATA: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no model": (lambda m: m.pop("tokenizer.ggml.model"), "tokenizer.ggml.model"),
    "other model": (lambda m: m.update({"tokenizer.ggml.model": "t5"}), "gpt2, llama"),
    "other pre": (lambda m: m.update({"tokenizer.ggml.pre": "qwen2"}), "llama-bpe"),
    "pre as an array": (lambda m: m.update({"tokenizer.ggml.pre": [1]}), "tokenizer.ggml.pre"),
    "model as an array": (lambda m: m.update({"tokenizer.ggml.model": ["gpt2"]}), "tokenizer.ggml.model"),
    "no tokens": (lambda m: m.pop("tokenizer.ggml.tokens"), "tokens: missing"),
    "no merges": (lambda m: m.pop("tokenizer.ggml.merges"), "merges: missing"),
    "tokens are numbers": (lambda m: m.update({"tokenizer.ggml.tokens": [1, 2]}), "array of str"),
    "empty token": (lambda m: m["tokenizer.ggml.tokens"].__setitem__(7, ""), "1,024"),
    "endless token": (lambda m: m["tokenizer.ggml.tokens"].__setitem__(7, "x" * 9999), "1,024"),
    "repeated token": (lambda m: m["tokenizer.ggml.tokens"].__setitem__(7, "he"), "'he' stands there twice"),
    "one type short": (lambda m: m["tokenizer.ggml.token_type"].pop(), "4,095 types for 4,096 tokens"),
    "type 9": (lambda m: m["tokenizer.ggml.token_type"].__setitem__(7, 9), "type 9"),
    "merge of three": (lambda m: m["tokenizer.ggml.merges"].__setitem__(7, "a b c"), "two tokens"),
    "merges that only add up": (
        lambda m: m["tokenizer.ggml.merges"].__setitem__(slice(7, 9), ["a", "b c d"]),
        "two tokens",
    ),
    "merge of one": (lambda m: m["tokenizer.ggml.merges"].__setitem__(7, "a "), "two tokens"),
    "merge of strangers": (lambda m: m["tokenizer.ggml.merges"].__setitem__(7, "qqq zzz"), "qqq"),
    "merge of control characters": (
        lambda m: m["tokenizer.ggml.merges"].__setitem__(7, "qq\n \x1b[31m"),
        r"Token `qq\n` out",
    ),
    "begin out of range": (lambda m: m.update({"tokenizer.ggml.bos_token_id": 4096}), "bos_token_id"),
    "negative end": (lambda m: m.update({"tokenizer.ggml.eos_token_id": -1}), "eos_token_id"),
    "text as id": (lambda m: m.update({"tokenizer.ggml.eot_token_id": "4094"}), "eot_token_id"),
    "number as flag": (lambda m: m.update({"tokenizer.ggml.add_bos_token": 1}), "add_bos_token"),
}


@pytest.mark.parametrize(("break_it", "reason"), BROKEN_METADATA.values(), ids=BROKEN_METADATA)
def test_broken_metadata(break_it: Callable[[dict[str, Any]], Any], reason: str) -> None:
    metadata = demo_metadata()
    break_it(metadata)
    with pytest.raises((FormatError, UnsupportedError)) as caught:
        tokenizer_from_gguf(metadata)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def set_path(document: dict[str, Any], *path: Any) -> None:
    *keys, last, value = path
    for key in keys:
        document = document[key]
    document[last] = value


BROKEN_DOCUMENTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "unigram": (("model", "type", "Unigram"), "Unigram"),
    "dropout": (("model", "dropout", 0.1), "dropout"),
    "suffix": (("model", "end_of_word_suffix", "</w>"), "end_of_word_suffix"),
    "neither bytes nor fallback": (("pre_tokenizer", None), "byte"),
    "shared id": (("model", "vocab", "he", 5), "share an id"),
    "negative id": (("model", "vocab", "qqq", -1), "out of range"),
    "text as id": (("model", "vocab", "qqq", "1"), "out of range"),
    "empty token": (("model", "vocab", "", 9999), "0 characters"),
    "merge of three": (("model", "merges", 0, ["a", "b", "c"]), "two tokens"),
    "merge of strangers": (("model", "merges", 0, ["qqq", "zzz"]), "qqq"),
    "whole words": (("added_tokens", 0, "single_word", True), "whole words"),
    "two texts": (("added_tokens", 0, "id", 7), "an id of its own"),
    "no model": (("model", None), "not a tokenizer.json"),
    "vocabulary is a list": (("model", "vocab", []), "vocab: not a JSON object"),
    "unknown stage": (("normalizer", {"type": "Nonsense"}), "tokenizer"),
}


@pytest.mark.parametrize(("change", "reason"), BROKEN_DOCUMENTS.values(), ids=BROKEN_DOCUMENTS)
def test_broken_documents(tmp_path: Path, change: tuple[Any, ...], reason: str) -> None:
    document = json.loads((DEMO_DIRECTORY / "tokenizer.json").read_text())
    if change[0] == "pre_tokenizer":
        document["decoder"] = None
    set_path(document, *change)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(BitNetError) as caught:
        tokenizer_from_file(tmp_path / "tokenizer.json")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_files_that_are_no_tokenizers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        tokenizer_from_file(tmp_path / "tokenizer.json")


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        tokenizer_from_file(tmp_path / "tokenizer.json")


def test_the_files_beside_it(tmp_path: Path) -> None:
    document = json.loads((DEMO_DIRECTORY / "tokenizer.json").read_text())
    document["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    alone = tokenizer_from_file(tmp_path / "tokenizer.json")
    assert (alone.bos_id, alone.add_bos, alone.eos_ids) == (None, False, {4094})
    (tmp_path / "generation_config.json").write_text('{"bos_token_id": 4092, "eos_token_id": [4093, 4095]}')
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true, "eos_token": {"content": "<|pad|>"}}')
    whole = tokenizer_from_file(tmp_path / "tokenizer.json")
    assert (whole.bos_id, whole.add_bos, whole.eos_id, whole.eos_ids) == (4092, True, 4095, {4093, 4094, 4095})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5000}')
    with pytest.raises(FormatError, match="5000"):
        tokenizer_from_file(tmp_path / "tokenizer.json")


def test_bad_texts_and_ids() -> None:
    with pytest.raises(ParameterError, match=f"{MAX_TEXT_LENGTH + 1:,}.*{MAX_TEXT_LENGTH:,}"):
        FROM_JSON.encode("x" * (MAX_TEXT_LENGTH + 1))
    with pytest.raises(ParameterError, match="character 1"):
        FROM_JSON.encode("a\ud800")
    for bad in (-1, 4096):
        with pytest.raises(ParameterError, match="4,096"):
            FROM_JSON.decode([5, bad])


def test_text_that_a_cut_down_vocabulary_cannot_spell() -> None:
    metadata = demo_metadata()
    metadata |= {"tokenizer.ggml.merges": []}
    kept = [i for i, text in enumerate(metadata["tokenizer.ggml.tokens"]) if text != "z"]
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
        metadata[key] = [metadata[key][i] for i in kept]
    for key in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
        metadata[key] -= 1
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc"
    with pytest.raises(FormatError, match="cannot spell 'abz'"):
        tokenizer.encode("abz")


def test_a_token_may_end_answers_and_stay_text(tmp_path: Path) -> None:
    document = json.loads((DEMO_DIRECTORY / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    newline = FROM_JSON.token_id("Ċ")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4093, newline]}))
    from_json = tokenizer_from_file(tmp_path / "tokenizer.json")
    from_gguf = tokenizer_from_gguf(demo_metadata() | {"tokenizer.ggml.eot_token_id": newline})
    for tokenizer in (from_json, from_gguf):
        assert newline in tokenizer.eos_ids
        assert newline not in tokenizer.special_ids
        for parse_special in (False, True):
            ids = tokenizer.encode("a\nb#", parse_special=parse_special)
            assert ids == FROM_JSON.encode("a\nb#")
            assert tokenizer.decode(ids) == "a\nb#"


def test_the_end_token_is_special_though_its_type_says_normal() -> None:
    tokenizer = tokenizer_from_gguf(demo_metadata() | {"tokenizer.ggml.token_type": [1] * 4096})
    assert {4092, 4093} <= tokenizer.special_ids
    assert tokenizer.encode("<|end_of_text|>", add_bos=False, parse_special=True) == [4093]


def test_control_tokens_with_the_bos_glued_to_them_are_read_without() -> None:
    for first in (4092, 4093):  # some converters glue it to itself, too
        metadata = demo_metadata()
        tokens = metadata["tokenizer.ggml.tokens"]
        bos = tokens[4092]
        for token_id in range(first, 4096):
            tokens[token_id] = bos + tokens[token_id]
        tokenizer = tokenizer_from_gguf(metadata)
        for token_id in range(4092, 4096):
            assert tokenizer.token_text(token_id) == FROM_GGUF.token_text(token_id)
        assert any("begin with '<|begin_of_text|>' and are read without it" in note for note in tokenizer.notes)
        assert tokenizer.eos_ids == FROM_GGUF.eos_ids


def test_types_that_a_converter_left_open_are_normal() -> None:
    types = [0] * 4092 + [3] * 4
    tokenizer = tokenizer_from_gguf(demo_metadata() | {"tokenizer.ggml.token_type": types})
    assert tokenizer.encode("Once upon") == FROM_GGUF.encode("Once upon")


def test_a_vocabulary_without_an_end_is_told() -> None:
    metadata = demo_metadata()
    del metadata["tokenizer.ggml.eos_token_id"]
    metadata["tokenizer.ggml.tokens"][4094] = "<|end|>"
    assert "no token is named that ends a text" in tokenizer_from_gguf(metadata).notes[-1]


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("llama-bpe", ["I", "'M", " a", "'s", " ", "123", "45", "!?", "x", "  "]),
        ("smaug-bpe", ["I", "'M", " a", "'s", " ", "123", "45", "!?", "x", "  "]),
        ("gpt-2", ["I", "'", "M", " a", "'s", " 12345", "!?", "x", "  "]),
        ("default", ["I", "'", "M", " a", "'", "s", " ", "123", "45", "!?", "x", "  "]),
    ],
)
def test_pre_tokenizers_split_words_as_llama_cpp_does(pre: str, words: list[str]) -> None:
    """The words that no merge may join: with a vocabulary of all their neighbours, they are the tokens."""
    assert _words_of(pre, "I'M a's 12345!?x  ") == words


def _words_of(pre: str, text: str) -> list[str]:
    """Split a text by a vocabulary in which any two neighbouring characters may be joined."""
    spelled = [spelling_of_bytes(character.encode()) for character in text]
    parts = {"".join(spelled[i:j]) for i in range(len(spelled)) for j in range(i + 1, len(spelled) + 1)}
    tokens = list(dict.fromkeys([*BYTE_ALPHABET, *sorted(parts, key=lambda part: (len(part), part))]))
    merges = [f"{part[:cut]} {part[cut:]}" for part in tokens for cut in range(1, len(part))]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
    }
    tokenizer = tokenizer_from_gguf(metadata)
    return [tokenizer.token_bytes(i).decode() for i in tokenizer.encode(text)]

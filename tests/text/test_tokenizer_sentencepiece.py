"""SentencePiece vocabularies against a naive twin of its algorithm."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import FormatError
from bitnet_numba.text.tokenizer import tokenizer_from_file, tokenizer_from_gguf
from tests.text.vocabularies import sentencepiece_metadata

LETTERS = ["▁", "a", "b", "c", "é"]
WORDS = st.lists(
    st.text("▁abc", min_size=2, max_size=4).filter(lambda word: word not in LETTERS), unique=True, max_size=14
)
METADATA = sentencepiece_metadata(
    ["▁a", "ab", "▁ab", "bc", "abc", "▁▁", *LETTERS], [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, *[-100.0] * 5]
)
TOKENIZER = tokenizer_from_gguf(METADATA)


def naive_encode(metadata: dict[str, Any], text: str) -> list[int]:
    """Join, again and again, the neighbours whose joined text has the best score; the first of equals."""
    ids = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    scores = metadata["tokenizer.ggml.scores"]
    symbols = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        joined = [left + right for left, right in itertools.pairwise(symbols)]
        candidates = [i for i, word in enumerate(joined) if ids.get(word, 0) > 258]
        if not candidates:
            break
        best = max(candidates, key=lambda i: (scores[ids[joined[i]]], -i))
        symbols[best : best + 2] = [joined[best]]
    encoded = []
    for symbol in symbols:
        encoded += [ids[symbol]] if symbol in ids else [3 + byte for byte in symbol.encode()]
    return encoded


@given(words=WORDS, order=st.randoms(use_true_random=False), text=st.text("abc é日", max_size=20))
def test_matches_its_twin(words: list[str], order: Any, text: str) -> None:
    scores = [-float(i) for i in range(len(words))]
    order.shuffle(scores)
    metadata = sentencepiece_metadata([*words, *LETTERS], [*scores, *[-100.0] * len(LETTERS)])
    assert tokenizer_from_gguf(metadata).encode(text, add_bos=False) == naive_encode(metadata, text)


@given(text=st.text(max_size=30))
def test_text_comes_back(text: str) -> None:
    # The mark itself stands for a space: SentencePiece cannot tell them apart.
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text.replace("▁", " ")


def test_what_the_metadata_say() -> None:
    assert (TOKENIZER.bos_id, TOKENIZER.eos_ids, TOKENIZER.add_bos) == (1, {2}, True)
    assert TOKENIZER.token_bytes(3 + 0x41) == b"A"
    assert TOKENIZER.encode("ab") == [1, TOKENIZER.token_id("▁ab")]


def test_the_space_before_a_text_goes_only_at_the_start() -> None:
    ids = TOKENIZER.encode("ab ab", add_bos=False)
    assert TOKENIZER.decode(ids) == "ab ab"
    assert TOKENIZER.decode([1, *ids]) == "ab ab"
    following = TOKENIZER.stream_decoder()
    assert "".join(map(following.push, ids)) + following.finish() == " ab ab"


def test_without_the_space() -> None:
    tokenizer = tokenizer_from_gguf(METADATA | {"tokenizer.ggml.add_space_prefix": False})
    assert tokenizer.encode("ab", add_bos=False) == [tokenizer.token_id("ab")]
    assert tokenizer.decode(tokenizer.encode(" ab")) == " ab"


@pytest.mark.parametrize("text", ["<s>ab</s>", "<unk>", "<0x41>"])
def test_markup_stays_text(text: str) -> None:
    ids = TOKENIZER.encode(text, add_bos=False)
    assert not {0, 1, 2, 3 + 0x41} & set(ids) or text == "<0x41>"
    assert TOKENIZER.decode(ids) == text
    parsed = TOKENIZER.encode(text, add_bos=False, parse_special=True)
    assert (parsed == ids) == (text == "<0x41>")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("tokenizer.ggml.scores", [0.0], "1 scores for"),
        ("tokenizer.ggml.scores", [float("nan")] * 270, "not finite"),
        ("tokenizer.ggml.token_type", [6] * 270, "<0xNN>"),
        ("tokenizer.ggml.unknown_token_id", 999, "unknown_token_id"),
    ],
)
def test_broken_metadata(key: str, value: Any, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        tokenizer_from_gguf(METADATA | {key: value})


def llama2_document(stages: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer.json in the way of Llama-2, with ``stages`` that put the space before a text."""
    tokens = METADATA["tokenizer.ggml.tokens"]
    merges = [["▁", "a"], ["a", "b"], ["▁", "ab"], ["▁a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"], ["▁", "▁"]]
    added = [{"id": i, "content": tokens[i], "special": True} for i in range(3)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "version": "1.0",
        "added_tokens": [flags | entry for entry in added],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
    } | stages


STAGES: dict[str, dict[str, Any]] = {
    "always": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        }
    },
    "first only": {
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    },
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("text", ["ab abc", " ab", "ab</s>ab", "</s> ab<s>", "é日</s></s>a", "<unk>ab"])
def test_tokenizer_json_agrees_with_the_package(tmp_path: Path, stages: dict[str, Any], text: str) -> None:
    document = json.dumps(llama2_document(stages))
    (tmp_path / "tokenizer.json").write_text(document)
    package = tokenizers.Tokenizer.from_str(document)
    tokenizer = tokenizer_from_file(tmp_path / "tokenizer.json")
    ids = tokenizer.encode(text, parse_special=True)
    assert ids == package.encode(text).ids
    assert tokenizer.decode(ids) == package.decode(ids)


def test_a_byte_token_may_end_answers_and_stay_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(llama2_document(STAGES["always"])))
    plain = tokenizer_from_file(tmp_path / "tokenizer.json").encode("a\nb")
    (tmp_path / "config.json").write_text('{"eos_token_id": [2, 13]}')
    tokenizer = tokenizer_from_file(tmp_path / "tokenizer.json")
    assert (tokenizer.eos_ids, 13 in tokenizer.special_ids) == ({2, 13}, False)
    assert tokenizer.encode("a\nb") == plain
    assert 13 in plain
    from_gguf = tokenizer_from_gguf(METADATA | {"tokenizer.ggml.eot_token_id": 13})
    assert (from_gguf.eos_ids, from_gguf.encode("a\nb")) == ({2, 13}, TOKENIZER.encode("a\nb"))

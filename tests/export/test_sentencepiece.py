"""Tokenizers of 1bitLLM's kind: a reader of the exported scores makes the tokens that the merges make."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.export.gguf import export_gguf
from bitnet_numba.export.vocabulary import vocabulary_metadata
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.json_file import JsonObject
from bitnet_numba.text.tokenizer import Tokenizer, tokenizer_from_gguf
from bitnet_numba.text.tokenizer_json import tokenizer_file
from tests.export.llama2 import (
    BEGIN,
    END,
    FIRST_BYTE,
    JOINED,
    MARK,
    METASPACE,
    PAD,
    PREPEND,
    REPLACE,
    UNKNOWN,
    llama2_checkpoint,
    llama2_tokenizer,
    n_tokens,
)

TEXTS = st.one_of(
    st.text(max_size=30),
    st.text("abcdé ▁\n日", max_size=40),
    st.lists(st.sampled_from([" ", "  ", "ab", "abcd", "aa", "d ", "<s>", "</s>", PAD, MARK, "<unk>", "<0x41>", "\n"]))
    .map("".join)
    .filter(lambda text: len(text) < 60),
)
STAGES: dict[str, dict[str, Any]] = {
    "a space before": {"normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}},
    "none before": {"normalizer": REPLACE},
    "none before, by Metaspace": {"normalizer": None, "pre_tokenizer": METASPACE},
    "a space before, and Metaspace": {"pre_tokenizer": METASPACE | {"prepend_scheme": "first"}},
}
WORDS = st.lists(st.text("▁abc", min_size=2, max_size=4), unique=True, min_size=1, max_size=12)


def exported_keys(tokenizer: dict[str, Any]) -> dict[str, Any]:
    keys = vocabulary_metadata(tokenizer_file(JsonObject("toy", tokenizer)), n_tokens(tokenizer))
    return keys | {"tokenizer.ggml.bos_token_id": BEGIN, "tokenizer.ggml.eos_token_id": END}


def exported(tokenizer: dict[str, Any]) -> Tokenizer:
    return tokenizer_from_gguf(exported_keys(tokenizer))


def by_scores(keys: dict[str, Any], text: str) -> list[str]:
    """Join neighbours as other readers do: the best score first, the leftmost of equals, special tokens among them."""
    scores = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], strict=True))
    parts = list(text)
    while True:
        joined = ["".join(pair) for pair in pairwise(parts)]
        places = [place for place, token in enumerate(joined) if token in scores]
        if not places:
            return parts
        best = max(places, key=lambda place: (scores[joined[place]], -place))
        parts[best : best + 2] = [joined[best]]


PAIRS = {
    name: (exported(document), tokenizers.Tokenizer.from_str(json.dumps(document)))
    for name, document in ((name, llama2_tokenizer() | stages) for name, stages in STAGES.items())
}


@pytest.mark.parametrize("name", PAIRS)
@given(text=TEXTS)
def test_tokens_are_those_of_the_tokenizers_library(name: str, text: str) -> None:
    tokenizer, package = PAIRS[name]
    expected = package.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, add_bos=False, parse_special=True) == expected


@given(words=WORDS, order=st.randoms(use_true_random=False), text=st.text("abc ▁\n", max_size=30), data=st.data())
def test_merges_that_are_exported_are_what_scores_make(words: list[str], order: Any, text: str, data: Any) -> None:
    complete = llama2_tokenizer(words)
    merges = complete["model"]["merges"]
    if data.draw(st.booleans(), "shuffled"):
        order.shuffle(merges)
    complete["model"]["merges"] = merges[data.draw(st.integers(0, 2), "left out") :]
    try:
        keys = exported_keys(complete)
    except UnsupportedError:
        assume(False)
    package = tokenizers.Tokenizer.from_str(json.dumps(complete))
    expected = package.encode(text, add_special_tokens=False)
    assert tokenizer_from_gguf(keys).encode(text, add_bos=False) == expected.ids
    symbols = by_scores(keys, "▁" + text.replace(" ", "▁")) if text else []
    assert [token for token in symbols if token != "\n"] == [token for token in expected.tokens if token != "<0x0A>"]


def test_one_merge_a_token_is_enough() -> None:
    merges = [["a", "b"], ["c", "d"], ["ab", "cd"], ["▁", "abcd"]]
    tokenizer = llama2_tokenizer(["ab", "cd", "abcd", "▁abcd", "bcd"], [*merges, ["b", "cd"]])
    ids = exported(tokenizer).encode("abcd bcd", add_bos=False)
    vocabulary = tokenizer["model"]["vocab"]
    assert ids == [vocabulary["▁abcd"], vocabulary["▁"], vocabulary["bcd"]]


def test_what_the_file_says(tmp_path: Path) -> None:
    document = llama2_tokenizer()
    export_gguf(llama2_checkpoint(document).write(tmp_path / "toy"), tmp_path / "toy.gguf")
    with open_gguf(tmp_path / "toy.gguf") as file:
        metadata = file.metadata
    size = n_tokens(document)
    found = {key.removeprefix("tokenizer."): value for key, value in metadata.items() if key.startswith("tokenizer.")}
    assert found.pop("ggml.tokens")[-len(JOINED) - 8 :][: len(JOINED)] == JOINED
    assert found.pop("ggml.scores") == [
        *[-float(len(JOINED))] * (FIRST_BYTE + 256),
        *[-float(place) for place in range(len(JOINED))],
        *[-float(len(JOINED))] * 8,
    ]
    assert found.pop("ggml.token_type") == [2, 3, 3, *[6] * 256, *[1] * (size - FIRST_BYTE - 256 - 2), 3, 4]
    assert found == {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.add_space_prefix": True,
        "ggml.unknown_token_id": UNKNOWN,
        "ggml.bos_token_id": BEGIN,
        "ggml.eos_token_id": END,
        "ggml.padding_token_id": size - 2,
        "ggml.add_bos_token": True,
        "chat_template": "{{ messages[0].content }}",
    }
    assert metadata["general.architecture"] == "bitnet"
    tokenizer = tokenizer_from_gguf(metadata)
    package = tokenizers.Tokenizer.from_str(json.dumps(document))
    for text in ["", "ab", " ab  abcd\n", "日é</s>ab<s> d", f"{MARK}ab {PAD}", "aaaaaaa     "]:
        assert tokenizer.encode(text, parse_special=True) == package.encode(text).ids


def changed(part: str, **content: Any) -> dict[str, Any]:
    tokenizer = llama2_tokenizer()
    tokenizer[part] = (tokenizer[part] or {}) | content
    return tokenizer


def merging(joined: list[str], *merges: str) -> dict[str, Any]:
    return llama2_tokenizer(joined, [merge.split() for merge in merges])


def with_words(*words: str) -> dict[str, Any]:
    tokenizer = llama2_tokenizer()
    for word in words:
        tokenizer["model"]["vocab"][word] = len(tokenizer["model"]["vocab"])
    for token_id, entry in enumerate(tokenizer["added_tokens"][3:], len(tokenizer["model"]["vocab"])):
        entry["id"] = token_id
    return tokenizer


def without_a_byte() -> dict[str, Any]:
    tokenizer = llama2_tokenizer()
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["zz"] = vocabulary.pop("<0x7F>")
    return tokenizer


REFUSED: dict[str, tuple[dict[str, Any], type[BitNetError], str]] = {
    "a pair that is no merge": (
        merging(["ab", "bc", "abc"], "a b", "b c"),
        UnsupportedError,
        "no merge joins 'ab' and 'c', but readers of GGUF do",
    ),
    "merges out of order": (
        merging(["ab", "bc", "abc"], "b c", "a b", "ab c"),
        UnsupportedError,
        "no merge joins 'a' and 'bc'",
    ),
    "a special token in two parts": (
        merging(["<", "s", ">", "s>"], "s >"),
        UnsupportedError,
        "no merge joins '<' and 's>'",
    ),
    "a merge of bytes": (
        merging(["<0x41>b"], "<0x41> b"),
        UnsupportedError,
        "token '<0x41>b' spells a byte token",
    ),
    "a merge that makes a special token": (
        merging(["<s", ">"], "<s >"),
        UnsupportedError,
        "merges lead to token '<s>'",
    ),
    "a merge of no tokens": (merging(["ab"], "a b", "x y"), FormatError, "merges is ['x', 'y']"),
    "a byte too few": (without_a_byte(), FormatError, "255 of the 256 byte tokens"),
    "words taken whole": (changed("model", ignore_merges=True), UnsupportedError, "ignore_merges"),
    "another normalizer": (changed("normalizer", normalizers=[{"type": "NFKC"}, REPLACE]), UnsupportedError, "U+2581"),
    "no normalizer": (llama2_tokenizer() | {"normalizer": None}, UnsupportedError, "U+2581"),
    "Metaspace that keeps a leading space": (
        llama2_tokenizer() | {"normalizer": None, "pre_tokenizer": METASPACE | {"prepend_scheme": "always"}},
        UnsupportedError,
        "treat spaces unlike GGUF readers",
    ),
    "words split at spaces": (
        llama2_tokenizer() | {"pre_tokenizer": METASPACE | {"split": True}},
        UnsupportedError,
        "treat spaces unlike GGUF readers",
    ),
    "another pre-tokenizer": (changed("pre_tokenizer", type="Whitespace"), UnsupportedError, "U+2581"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    tokenizer, kind, words = REFUSED[name]
    with pytest.raises(kind) as caught:
        exported(tokenizer)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokens_too_long_to_be_checked() -> None:
    with pytest.raises(UnsupportedError, match="too long for the merges to be checked"):
        exported(with_words(*(f"{number:01000}" for number in range(101))))

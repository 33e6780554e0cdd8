"""Stages of a tokenizer.json: those that models use agree with the package, all others never reach it."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import BitNetError, FormatError, ParameterError
from bitnet_numba.text import tokenizer as room
from bitnet_numba.text.text_matcher import TextMatcher
from bitnet_numba.text.tokenizer import MAX_RUN_LENGTH, Tokenizer, tokenizer_from_file, tokenizer_from_gguf
from tests.text.stage_cases import REFUSED, USED, Stage
from tests.text.vocabularies import DEMO_DIRECTORY, demo_metadata, sentencepiece_metadata

DOCUMENT = json.loads((DEMO_DIRECTORY / "tokenizer.json").read_text())
TEXT = "Once upon a time's  1234567 <<e\u0301>>,\n\n\t12 日本👍 aab \n"


def write(folder: Path, stages: Stage) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(DOCUMENT | {"post_processor": None} | stages))
    return path


@pytest.mark.parametrize("stages", USED.values(), ids=USED)
def test_used_stages_agree_with_the_package(tmp_path: Path, stages: Stage) -> None:
    path = write(tmp_path, stages)
    package = tokenizers.Tokenizer.from_file(str(path))
    assert tokenizer_from_file(path).encode(TEXT, add_bos=False) == package.encode(TEXT).ids


@pytest.mark.parametrize(("stages", "reason"), REFUSED.values(), ids=REFUSED)
def test_other_stages_never_reach_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: Stage, reason: str
) -> None:
    monkeypatch.setattr(room, "tokenizers", None)
    with pytest.raises(BitNetError) as caught:
        tokenizer_from_file(write(tmp_path, stages))
    assert reason in str(caught.value)
    assert "tokenizer.json: " in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_panic_of_the_package_is_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """A stand-in: pyo3 exports no class to raise."""

    def panic(_: str) -> Any:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(room, "tokenizers", SimpleNamespace(Tokenizer=SimpleNamespace(from_str=panic)))
    with pytest.raises(FormatError, match="index out of bounds"):
        tokenizer_from_file(write(tmp_path, {}))


@pytest.mark.parametrize("letter", [" ", "\n", "a", "!", "\u3000"])
def test_endless_runs_are_refused(letter: str) -> None:
    tokenizer = tokenizer_from_gguf(demo_metadata())
    with pytest.raises(ParameterError, match="1,048,577 characters in a row"):
        tokenizer.encode("b "[not letter.isspace()] + letter * (MAX_RUN_LENGTH + 1))


def test_sentencepiece_merges_are_bounded() -> None:
    pieces = ["a" * n for n in range(1, 700)]
    with pytest.raises(BitNetError, match="squared lengths"):
        tokenizer_from_gguf(sentencepiece_metadata(pieces, [0.0] * len(pieces)))


def test_many_control_tokens() -> None:
    texts = [f"<|{'x' * 200}{i}|>" for i in range(60_000)]
    metadata = demo_metadata()
    metadata["tokenizer.ggml.tokens"] += texts
    metadata["tokenizer.ggml.token_type"] += [3] * len(texts)
    tokenizer: Tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.encode(texts[12_345], add_bos=False, parse_special=True) == [4096 + 12_345]


@given(
    texts=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=8, unique=True),
    text=st.text("ab<c", max_size=30),
)
def test_the_matcher_finds_the_longest_first(texts: list[str], text: str) -> None:
    longest_first = sorted(texts, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) if texts else "(?!)")
    assert list(TextMatcher(texts).find(text)) == [found.span() for found in pattern.finditer(text)]

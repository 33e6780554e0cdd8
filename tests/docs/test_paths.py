"""Files and symbols that the pages name exist where the pages say."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, ROOT

ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"
BASES = (ROOT, ROOT / "bitnet_numba")
QUESTIONS = 12

_ROW = re.compile(r"^\| (Where [^|]+\?) \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
_PATH = re.compile(r"`((?:[a-z0-9_]+/)+[a-z0-9_]*(?:\.(?:py|md|sh))?)`")
FOLDERS = {path.name for base in BASES for path in base.iterdir() if path.is_dir()}


def where_to_look(text: str) -> list[tuple[str, str, str]]:
    """Return the question, file and symbol of each row of the table "Where to look"."""
    return _ROW.findall(text)


def missing_paths(text: str) -> list[str]:
    """Return the paths in code marks that begin with a package or folder of the project and do not exist."""
    ours = [path for path in _PATH.findall(text) if path.partition("/")[0] in FOLDERS]
    return [path for path in ours if not any((base / path).exists() for base in BASES)]


def test_every_question_has_one_answer() -> None:
    questions = [question for question, _, _ in where_to_look(ARCHITECTURE.read_text(encoding="utf-8"))]
    assert len(set(questions)) == len(questions) == QUESTIONS


@pytest.mark.parametrize(("question", "file", "symbol"), where_to_look(ARCHITECTURE.read_text(encoding="utf-8")))
def test_the_named_file_has_the_named_symbol(question: str, file: str, symbol: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"\b{re.escape(symbol)}\b", source), f"{question}: {symbol} is not in {file}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_a_page_exist(page: Path) -> None:
    assert missing_paths(page.read_text(encoding="utf-8")) == []


def test_a_wrong_path_is_found() -> None:
    text = "`bitnet_numba/nowhere.py` and `backends/cpu/nothing/`, `bitnet_numba/errors.py`, `blk/0` and `org/name`"
    assert missing_paths(text) == ["bitnet_numba/nowhere.py", "backends/cpu/nothing/"]

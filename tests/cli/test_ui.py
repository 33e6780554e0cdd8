"""Timings and tables."""

from dataclasses import replace

import pytest

from bitnet_numba_cli import _ui
from tests.fakes import model_that_says


def test_tables_keep_long_values_whole_in_a_pipe() -> None:
    value = "word " * 60
    text = _ui.tables({"Title": {"name": value.strip(), "other": 5}})
    assert [line.strip() for line in text.splitlines()] == ["Title", f"name   {value.strip()}", "other  5", ""]
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert "\x1b" not in text


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_tables_are_coloured_at_a_terminal_unless_told_otherwise(
    no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    assert ("\x1b[36m" in _ui.tables({"Title": {"name": "value"}})) is coloured


def test_timings_are_one_line() -> None:
    result = model_that_says("Yes").generate([1, 2, 3])
    result = replace(result, prompt_tps=100.0, generation_tps=50.04, first_token_ms=12.4)
    assert _ui.timings(result) == (
        "prompt 3 tokens, 100.0 tokens/s | answer 3 tokens, 50.0 tokens/s | first token after 12 ms"
        " | ended by stop_token"
    )

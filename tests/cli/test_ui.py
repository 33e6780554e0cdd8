"""Progress and tables."""

import time
from dataclasses import replace

import pytest

from bitnet_numba_cli import _ui
from tests.fakes import model_that_says


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compilation lie ahead, and the notice come at once."""
    monkeypatch.setattr("bitnet_numba.backends.cpu.compiler.kernel_cache.is_warm", lambda: False)
    monkeypatch.setattr(_ui, "NOTICE_DELAY", 0.0)


def wait_for_output(capsys: pytest.CaptureFixture[str]) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        written = capsys.readouterr().err
        if written:
            return written
        time.sleep(0.005)
    raise TimeoutError("nothing was written")


@pytest.mark.usefixtures("cold")
def test_compilation_is_one_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with _ui.compilation_notice():
        written = wait_for_output(capsys)
    assert written == f"{_ui.NOTICE} ...\n"
    assert "once" in written
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("cold")
def test_compilation_counts_on_a_terminal_and_disappears(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ui, "stderr_is_terminal", lambda: True)
    with _ui.compilation_notice():
        written = wait_for_output(capsys)
        assert written == f"\r{_ui.NOTICE}: 0 s"
    assert capsys.readouterr().err.endswith("\r" + " " * (len(written) - 1) + "\r")


def test_nothing_is_said_when_kernels_lie_ready(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitnet_numba.backends.cpu.compiler.kernel_cache.is_warm", lambda: True)
    monkeypatch.setattr(_ui, "NOTICE_DELAY", 0.0)
    with _ui.compilation_notice():
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_a_short_wait_is_not_worth_a_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_numba.backends.cpu.compiler.kernel_cache.is_warm", lambda: False)
    with _ui.compilation_notice():
        pass
    assert capsys.readouterr() == ("", "")


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
    line = "prompt 3 tokens, 100.0 tokens/s | answer 3 tokens, 50.0 tokens/s | first token after 12 ms | ended by stop"
    assert _ui.timings(result) == line

"""The command ``pull``: its exit codes, what it prints, and how it stops."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from bitnet_numba.hub.transfer import Progress
from bitnet_numba_cli import _progress
from bitnet_numba_cli.main import cli
from tests.hub.conftest import CONTENT, FAST, NAME
from tests.hub.server import REPO, FakeHub, Fault, dies_after, reset, sends, status
from tests.subprocesses import ROOT

SHA256 = hashlib.sha256(CONTENT).hexdigest()
ID = f"{REPO}:{NAME}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["pull", *arguments], catch_exceptions=False)


def error_of(result: Result) -> str:
    """Return the last line of stderr, which must be the one that says ``error``."""
    *others, last = result.stderr.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error") for line in others)
    return last


def test_the_path_goes_to_stdout_and_the_rest_to_stderr(cache: Path) -> None:
    result = run(ID, "--sha256", f"sha256-{SHA256.upper()}", "--min-size", "256kB")
    assert result.exit_code == 0
    assert Path(result.stdout.removesuffix("\n")).read_bytes() == CONTENT
    assert f"{NAME}: 256,000 bytes, sha256 {SHA256}" in result.stderr
    assert "note: 256 kB; under 1 GB, benchmarks call it a test model" in result.stderr


def test_json_names_path_digest_and_size(cache: Path) -> None:
    result = run(REPO, "--json")
    told = json.loads(result.stdout)
    [file] = told.pop("files")
    assert file == told
    assert (told["sha256"], told["size"]) == (SHA256, len(CONTENT))
    assert Path(told["path"]).read_bytes() == CONTENT


def test_a_directory_has_a_digest_for_each_file(cache: Path, hub: FakeHub) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"x"}
    told = json.loads(run(REPO, "--json").stdout)
    assert (told["sha256"], told["size"]) == (None, 3)
    assert [Path(file["path"]).name for file in told["files"]] == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (status(401), 11, "set HF_TOKEN"),
        (status(403), 11, "set HF_TOKEN"),
        (status(429, Retry_After="9000"), 12, "try again after 9e+03 s"),
        (sends(bytes(len(CONTENT))), 13, f"expected {SHA256}"),
        (reset, 14, "check the network and the proxy"),
        (status(503), 14, "answers 503"),
        (status(404), 1, "check the name, the revision and the file"),
    ],
    ids=["401", "403", "429", "hash", "reset", "503", "404"],
)
def test_each_failure_has_its_exit_code(fault: Fault, code: int, told: str, cache: Path, hub: FakeHub) -> None:
    hub.fail(*[fault] * FAST.attempts)
    result = run(ID)
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in error_of(result)


def test_a_full_disk_is_10(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1_000))
    result = run(ID)
    assert result.exit_code == 10
    assert "1 kB are free" in error_of(result)


def test_a_small_model_is_13(cache: Path) -> None:
    result = run(ID, "--min-size", "1GB")
    assert result.exit_code == 13
    assert "expected at least 1,000,000,000" in error_of(result)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x"], "not a model on the hub"),
        (["a/b@r", "--revision", "s"], "given twice"),
        ([ID, "--sha256", "123"], "'123' is not a SHA-256"),
        ([ID, "--min-size", "1.5 elephants"], "is not a size"),
        ([], "MODEL_ID"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], told: str, cache: Path, hub: FakeHub) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in error_of(result)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("variable", "value", "code", "told"),
    [
        ("HF_ENDPOINT", "http://[::", 2, "environment: Invalid IPv6 URL; correct or unset HF_ENDPOINT"),
        ("HF_ENDPOINT", "nonsense", 14, "UnsupportedProtocol; check HF_ENDPOINT"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", 2, "correct or unset HF_ENDPOINT, HF_HUB_DOWNLOAD_TIMEOUT"),
        ("HTTPS_PROXY", "gopher://x", 14, "correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"),
    ],
)
def test_a_wrong_environment_is_one_line(variable: str, value: str, code: int, told: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), variable: value}
    command = [sys.executable, "-W", "error", "-m", "bitnet_numba", "pull", ID]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert told in done.stderr.splitlines()[-1]


def test_offline_prints_instructions_for_a_manual_download(cache: Path, hub: FakeHub) -> None:
    result = run(ID, "--offline", "--sha256", SHA256)
    assert result.exit_code == 14
    assert f"curl -fL -C - -o {NAME} {hub.endpoint}/{REPO}/resolve/main/{NAME}\n" in result.stderr
    assert f"sha256sum {NAME}    # {SHA256}\n" in result.stderr
    assert "not in the cache" in error_of(result)
    assert f"{hub.endpoint}/{REPO}/tree/main" in run(REPO, "--offline").stderr
    assert hub.requests == []


def test_offline_uses_the_cache(cache: Path) -> None:
    online = run(ID)
    assert run(ID, "--offline").stdout == online.stdout


def test_an_interrupted_process_exits_with_130_and_the_next_resumes(tmp_path: Path, hub: FakeHub) -> None:
    hub.fail(dies_after(1_000, stalls=True))
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
    }
    command = [sys.executable, "-W", "error", "-m", "bitnet_numba", "pull", ID]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline().startswith(f"{NAME}: 0 bytes of 256 kB (0 %)")
            wait_for_bytes(tmp_path / "cache", 1_000)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, stdout) == (130, "")
    assert "stopped; the part that was fetched is kept: run the same command to resume" in stderr
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert Path(done.stdout.strip()).read_bytes() == CONTENT
    assert hub.asked("GET")[-1] == "bytes=1000-"


def wait_for_bytes(cache: Path, n_bytes: int) -> None:
    """Wait until the partial file has this number of bytes, flushed or buffered."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(path.stat().st_size >= n_bytes for path in cache.rglob("*.incomplete")):
            return
        time.sleep(0.01)
    raise TimeoutError("the download did not begin")


# ---- progress --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress("m.gguf", 0, 10**9, 0.0), "m.gguf: 0 bytes of 1.00 GB (0 %)"),
        (Progress("m.gguf", 5 * 10**8, 10**9, 1e6), "m.gguf: 500 MB of 1.00 GB (50 %), 1 MB/s, 8 min 20 s left"),
        (Progress("m.gguf", 0, 8 * 10**9, 1e6), "m.gguf: 0 bytes of 8.00 GB (0 %), 1 MB/s, 2 h 13 min left"),
        (Progress("m.gguf", 999, 1000, 1.0), "m.gguf: 999 bytes of 1 kB (100 %), 1 bytes/s, 1 s left"),
        (Progress("m.gguf", 1000, 1000, 1e3), "m.gguf: 1 kB of 1 kB (100 %), 1 kB/s"),
        (Progress("m.gguf", 7, None, 1e3), "m.gguf: 7 bytes, 1 kB/s"),
    ],
)
def test_progress_in_words(progress: Progress, line: str) -> None:
    assert _progress.describe_download(progress) == line


def test_a_log_has_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with _progress.ProgressLine() as line:
        for done in (0, 10, 20, 100):
            _progress.show_download(line, Progress("m", done, 100, 0.0))
    assert capsys.readouterr().err == "m: 0 bytes of 100 bytes (0 %)\nm: 100 bytes of 100 bytes (100 %)\n"


def test_a_terminal_has_one_line_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitnet_numba_cli._ui.stderr_is_terminal", lambda: True)
    with _progress.ProgressLine() as line:
        _progress.show_download(line, Progress("m", 0, 100, 0.0))
        line.say("trying again")
        _progress.show_download(line, Progress("m", 100, 100, 0.0))
    first, second = "m: 0 bytes of 100 bytes (0 %)", "m: 100 bytes of 100 bytes (100 %)"
    assert capsys.readouterr().err == (
        f"\r{first}\r{' ' * len(first)}\rtrying again\n\r{second}\r{' ' * len(second)}\r"
    )

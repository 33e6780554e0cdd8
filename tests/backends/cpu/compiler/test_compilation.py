"""What says that kernels are compiled: a line when it takes long, a count of all, and a reason where it cannot be."""

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba.backends.cpu.compiler import compilation
from bitnet_numba.backends.cpu.compiler.compiled import compiled
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.norm import rms_norm
from bitnet_numba.backends.cpu.kernels.softmax import softmax_worker
from bitnet_numba.errors import ResourceError
from tests.fakes import wait_until
from tests.subprocesses import run_python

NOTICE = "Compiling kernels for this machine (once; later starts take a second or two) ..."


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache."""
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Let every compilation count as a long one."""
    monkeypatch.setattr(compilation, "NOTICE_DELAY", 0.0)
    caplog.set_level(logging.INFO, "bitnet_numba")
    return caplog


def run_norm() -> None:
    """Compile or load RMSNorm as a new process would."""
    norm: Any = jit(rms_norm.py_func)  # type: ignore[attr-defined]
    x = np.full(32, 3, np.float32)
    norm(x, np.ones(32, np.float32), np.float32(7), np.float32(32), x)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    assert {record.name for record in caplog.records} <= {"bitnet_numba"}
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_long_compilation_says_so_once(impatient: pytest.LogCaptureFixture) -> None:
    run_norm()
    wait_until(lambda: bool(messages(impatient, logging.WARNING)))
    assert messages(impatient, logging.WARNING) == [NOTICE]


def test_each_signature_that_is_missing_says_so(impatient: pytest.LogCaptureFixture) -> None:
    """A cache with other signatures of the same kernels is no excuse."""
    run_norm()
    wait_until(lambda: bool(messages(impatient, logging.WARNING)))
    impatient.clear()
    worker: Any = jit(softmax_worker.py_func)  # type: ignore[attr-defined]
    for array in (np.ones(32, np.float32), np.ones((2, 32), np.float32)[:, 0]):
        time.sleep(0.01)
        worker(array, np.ones(32, np.float32)[: array.size])
        wait_until(lambda: messages(impatient, logging.WARNING) == [NOTICE])
        impatient.clear()


def test_what_is_loaded_says_nothing(impatient: pytest.LogCaptureFixture) -> None:
    run_norm()
    wait_until(lambda: bool(messages(impatient, logging.WARNING)))
    impatient.clear()
    before = compiled.kernels
    run_norm()
    assert not impatient.records
    assert compiled.kernels == before


def test_a_short_compilation_is_not_worth_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compilation, "NOTICE_DELAY", 1000.0)
    run_norm()
    assert not caplog.records


def test_kernels_and_seconds_are_counted() -> None:
    kernels, seconds = compiled.kernels, compiled.seconds
    run_norm()
    assert compiled.kernels > kernels
    assert compiled.seconds > seconds


def test_the_line_says_why_nothing_is_kept(impatient: pytest.LogCaptureFixture, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o775)
    run_norm()
    wait_until(lambda: bool(messages(impatient, logging.WARNING)))
    assert messages(impatient, logging.WARNING) == [
        "Compiling kernels, at each start, for they cannot be kept: "
        f"{cache} can be written by others: close it with chmod go-w"
    ]


def test_a_program_without_logging_sees_the_line() -> None:
    done = run_python(
        "-c",
        "from bitnet_numba.backends.cpu.compiler import compilation\n"
        "compilation.NOTICE_DELAY = 0.0\n"
        "from tests.backends.cpu.compiler.test_compilation import run_norm, time\n"
        "run_norm(); time.sleep(0.1)",
    )
    assert (done.returncode, done.stderr) == (0, f"{NOTICE}\n")


# ---- where kernels cannot be compiled, or not be kept ----------------------------------------------------------------
def test_without_a_compiler_one_line_says_so() -> None:
    done = run_python("-m", "bitnet_numba", "run", "-n", "1", "Hi", NUMBA_DISABLE_JIT="1")
    assert done.returncode == 1
    assert done.stderr == "error: NUMBA_DISABLE_JIT: kernels only run as machine code; unset it\n"


def test_without_a_thread_to_be_had_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(ResourceError, match=r"^threads: the system lets this process start no more; raise its limit"):
        bitnet_numba.load("demo")


def test_without_sources_nothing_is_kept(tmp_path: Path) -> None:
    """A folder of modules without their sources, as some installers leave it."""
    package = tmp_path / "bare" / "bitnet_numba"
    shutil.copytree(Path(bitnet_numba.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", package], check=True)
    for source in package.rglob("*.py"):
        source.unlink()
    program = (
        "import numpy as np\n"
        "from bitnet_numba.backends.cpu.compiler.kernel_cache import cache_folder\n"
        "from bitnet_numba.backends.cpu.kernels.quantize import quantize_absmax\n"
        "print(*quantize_absmax(np.ones(32, np.float32), np.zeros(32, np.int8)), cache_folder().reason, sep=';')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"127\.0;4064;the sources of the kernels are not installed, .*\n", done.stdout)

"""``compile`` on the embedded model."""

import json
from pathlib import Path

import pytest

from bitnet_numba.backends.cpu.compiler import compiled, kernel_cache
from bitnet_numba.backends.cpu.compiler.compiled import Compilation
from bitnet_numba.backends.cpu.simd import cpu
from tests.cli.conftest import Invoke
from tests.subprocesses import run_python


def test_what_is_compiled_is_kept_for_the_next_process() -> None:
    """Compile what an earlier run has not; then nothing is left to compile, and it says so."""
    first, second = (run_python("-m", "bitnet_numba", "compile", "-m", "demo", "--json") for _ in range(2))
    assert (first.returncode, second.returncode, second.stderr) == (0, 0, "")
    facts = json.loads(second.stdout)
    assert (facts["instruction_set"], facts["compiled"], facts["seconds"]) == (cpu.isa(), 0, 0)
    assert Path(facts["folder"]).is_dir()
    assert list(Path(facts["folder"]).glob("step.forward-*.nbc"))


def test_people_get_a_sentence(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kernel_cache.cache_dir()
    monkeypatch.setattr(compiled, "compiled", Compilation())
    assert invoke("compile", "-m", "demo").stdout == f"nothing to compile for {cpu.isa()}: {folder}\n"
    monkeypatch.setattr(compiled, "compiled", Compilation(kernels=7, seconds=2.51))
    assert invoke("compile", "-m", "demo").stdout == f"7 kernels for {cpu.isa()} compiled in 2.5 s: {folder}\n"


def test_what_cannot_be_kept_is_an_error(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compiled", Compilation(kernels=7, seconds=2.5))
    nowhere = kernel_cache.CacheFolder(None, is_writable=False, reason="/cache: Read-only file system")
    monkeypatch.setattr(kernel_cache, "cache_folder", lambda: nowhere)
    result = invoke("compile", "-m", "demo")
    assert result.exit_code == 1
    assert result.stderr == "error: kernels were compiled and cannot be kept: /cache: Read-only file system\n"

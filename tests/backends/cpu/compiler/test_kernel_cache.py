"""Compiled kernels on disk: found again, rebuilt when damaged, and kept only where nobody else can write."""

import ast
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from bitnet_numba.backends.cpu.compiler import kernel_cache
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.norm import rms_norm
from bitnet_numba.backends.cpu.simd import cpu
from tests.subprocesses import run_python

PACKAGE = Path(kernel_cache.__file__).parent.parent
OTHER_SETTINGS = (
    # what prints, times, or finds files, threads and devices
    *(
        "ALWAYS_WARN",
        "ANNOTATE",
        "CACHE_",
        "CHROME_",
        "COLOR_",
        "CUDA_",
        "DEBUG_ARRAY",
        "DEBUG_CACHE",
        "DEBUG_FRONTEND",
    ),
    *("DEBUG_INLINE", "DEBUG_PRINT", "DEBUG_TYPEINFER", "DEVELOPER", "DIFF_", "DISABLE_PERF", "DUMP_", "FULL_", "GDB_"),
    *(
        "HIGHLIGHT",
        "HTML",
        "LLVM_PASS_TIMINGS",
        "NUMBA_",
        "PARALLEL_DIAG",
        "SHOW_",
        "THREADING",
        "TRACE",
        "FUNCTION_CACHE",
    ),
    *("DISABLE_CUDA", "ENABLE_CUDASIM", "FORCE_CUDA", "ENABLE_SYS", "RUNNING_", "USE_LLVMLITE", "DISABLE_TYPEINFER"),
    *("IS_", "MACHINE_", "PYVERSION"),  # of the system, which the target and the version of Python tell
    *("CPU_", "ENABLE_AVX"),  # the code generator's own name of its target has these
    "DISABLE_JIT",  # refused
)
CACHE_VARIABLES = ("BITNET_CACHE_DIR", "XDG_CACHE_HOME", "HOME")


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache."""
    root = tmp_path / "cache"
    monkeypatch.setenv("BITNET_CACHE_DIR", str(root))
    return root


def hits_and_misses() -> tuple[int, int]:
    """Compile or load RMSNorm as a new process would, check its result, and tell which of both it was."""
    compiled: Any = jit(rms_norm.py_func)  # type: ignore[attr-defined]
    x = np.full(32, 3, np.float32)
    compiled(x, np.ones(32, np.float32), np.float32(7), np.float32(32), x)
    np.testing.assert_array_equal(x, np.float32(0.75))
    return sum(compiled.stats.cache_hits.values()), sum(compiled.stats.cache_misses.values())


# ---- what is kept ----------------------------------------------------------------------------------------------------
def test_a_kernel_is_compiled_once(cache_root: Path) -> None:
    assert hits_and_misses() == (0, 1)
    assert hits_and_misses() == (1, 0)
    assert list(cache_root.rglob("*.nbc"))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def scramble(file: Path) -> None:
    file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))


def flip_one_bit_of_the_code(file: Path) -> None:
    stored = bytearray(file.read_bytes())
    stored[len(stored) // 2] ^= 1
    file.write_bytes(stored)


@pytest.mark.parametrize("damage", [truncate, empty, scramble, flip_one_bit_of_the_code])
def test_a_damaged_entry_is_built_anew(cache_root: Path, damage: Callable[[Path], None]) -> None:
    hits_and_misses()
    files = list(cache_root.rglob("*.nbc"))
    assert files
    for file in files:
        damage(file)
    assert hits_and_misses() == (0, 1)
    assert hits_and_misses() == (1, 0)


def test_a_full_disk_costs_no_answer_and_one_line(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Any, *rest: Any, **named: Any) -> int:
        if str(path).startswith(str(cache_root)):
            raise OSError(28, "No space left on device")
        return opened(path, *rest, **named)

    opened = os.open
    monkeypatch.setattr(os, "open", full)
    assert [hits_and_misses(), hits_and_misses()] == [(0, 1), (0, 1)]
    message = f"compiled kernels cannot be kept: {kernel_cache.cache_dir()}: No space left on device"
    assert [record.getMessage() for record in caplog.records if "kept" in record.getMessage()] == [message]
    monkeypatch.undo()


def test_an_entry_that_others_can_write_is_not_read(cache_root: Path) -> None:
    hits_and_misses()
    for file in cache_root.rglob("*.nbc"):
        file.chmod(0o664)
    assert hits_and_misses() == (0, 1)


def test_a_moved_cache_is_found(cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hits_and_misses()
    cache_root.rename(tmp_path / "moved")
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "moved"))
    assert hits_and_misses() == (1, 0)


def test_every_source_of_a_constant_names_the_folder() -> None:
    """Numba bakes imported constants into machine code: a changed one must not meet old code."""
    sources = kernel_cache.compiled_sources()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            is_ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bitnet_numba.")
            if is_ours and any(alias.name.isupper() for alias in node.names):
                module = node.module.removeprefix("bitnet_numba.backends.cpu.").replace(".", "/")
                assert {PACKAGE / f"{module}.py", PACKAGE / module / "__init__.py"} & set(sources), node.module


def test_the_folder_is_the_same_before_and_after_kernels_are_imported() -> None:
    code = (
        "from bitnet_numba.backends.cpu.compiler.kernel_cache import cache_dir; before = cache_dir();"
        "import bitnet_numba.backends.cpu.backend; assert before == cache_dir(), (before, cache_dir())"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


# ---- where it is kept ------------------------------------------------------------------------------------------------
def test_the_folder_is_private_and_named_for_the_instruction_set(cache_root: Path) -> None:
    found = kernel_cache.cache_dir()
    assert found is not None
    assert found.parent == cache_root / "kernels"
    assert found.name.startswith(f"{cpu.isa()}-")
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("setting", "value"), [("OPT", 1), ("BOUNDSCHECK", 1), ("LOOP_VECTORIZE", 0), ("DEBUGINFO_DEFAULT", 1)]
)
def test_what_changes_machine_code_changes_the_folder(
    setting: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = kernel_cache.cache_dir()
    monkeypatch.setattr(numba.config, setting, value)
    assert kernel_cache.cache_dir() != here


def test_another_target_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    here = kernel_cache.cache_dir()
    monkeypatch.setattr(numba.config, "CPU_NAME", "another")
    assert kernel_cache.cache_dir() != here


def test_every_setting_of_numba_is_known() -> None:
    """A new one must be found out about: if it changes machine code, it belongs to the key."""
    names = {name for name in vars(numba.config) if name.isupper() and not name.startswith(("_", *OTHER_SETTINGS))}
    assert names == set(kernel_cache.CODE_SETTINGS)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_folders_are_private_whatever_the_umask(cache_root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert [hits_and_misses(), hits_and_misses()] == [(0, 1), (1, 0)]
    finally:
        os.umask(before)
    found = kernel_cache.cache_dir()
    assert found is not None
    for made in (cache_root, found.parent, found):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for entry in found.iterdir():
        assert not entry.stat().st_mode & 0o022


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702])
def test_a_folder_that_others_write_to_is_not_used(mode: int) -> None:
    found = kernel_cache.cache_dir()
    assert found is not None
    found.chmod(mode)
    reason = f"{found} can be written by others: close it with chmod go-w"
    assert kernel_cache.cache_folder() == (None, False, reason)
    assert [hits_and_misses(), hits_and_misses()] == [(0, 1), (0, 1)]  # computed each time
    assert not list(found.iterdir())


def test_a_folder_of_somebody_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernel_cache.cache_dir()
    assert found is not None
    somebody = os.getuid() + 1
    if somebody == 1:  # root's folders are trusted, so give it away
        os.chown(found, somebody, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: somebody)
    assert kernel_cache.cache_dir() is None
    assert "belongs to another user" in str(kernel_cache.cache_folder().reason)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make what root owns")
def test_a_folder_of_root_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hits_and_misses() == (0, 1)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert hits_and_misses() == (1, 0)


def test_a_folder_that_cannot_be_written_is_read(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hits_and_misses() == (0, 1)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert hits_and_misses() == (1, 0)
    for entry in cache_root.rglob("*.nbc"):
        entry.unlink()
    assert [hits_and_misses(), hits_and_misses()] == [(0, 1), (0, 1)]
    assert kernel_cache.cache_folder().reason == f"{kernel_cache.cache_dir()}: not writable"


def test_a_folder_that_cannot_be_made_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert kernel_cache.cache_folder() == (None, False, f"{tmp_path}/file/cache: Not a directory")
    assert [hits_and_misses(), hits_and_misses()] == [(0, 1), (0, 1)]


def test_without_a_wish_the_cache_lies_where_caches_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITNET_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found = kernel_cache.cache_dir()
    assert found is not None
    assert found.is_relative_to(tmp_path / "xdg" / "bitnet-numba" / "kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    found = kernel_cache.cache_dir()
    assert found is not None
    assert found.is_relative_to(tmp_path / "home" / ".cache" / "bitnet-numba" / "kernels")


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("BITNET_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert kernel_cache.cache_dir() is None


# ---- from one process to the next ------------------------------------------------------------------------------------
PROGRAM = """
import json
import numpy as np
from bitnet_numba.backends.cpu.kernels.registry import new_counts
from bitnet_numba.backends.cpu.kernels.ternary import pack, ternary_gemv
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import alone

weights, q = np.ones((32, 128), np.int8), np.full(128, 3, np.int8)
out = np.zeros(32, np.int32)
packed = pack(reference.pack_i2s(weights))
ternary_gemv(alone(), new_counts(), packed, q, 384, out)
stats = ternary_gemv.stats
print(json.dumps([out.tolist(), sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))
"""


def run_program(**environment: str) -> list[Any]:
    done = run_python("-c", PROGRAM, without=CACHE_VARIABLES, **environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr  # that it compiles, where that takes over a second
    result: list[Any] = json.loads(done.stdout)
    return result


def test_the_next_process_compiles_nothing(tmp_path: Path) -> None:
    """That holds only while no kernel uses an operation that lives in a closure: Numba would never find it again."""
    assert run_program(HOME=str(tmp_path)) == [[384] * 32, 0, 1]
    assert run_program(HOME=str(tmp_path)) == [[384] * 32, 1, 0]


def test_a_home_that_is_no_folder_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run_program(HOME=str(tmp_path / "file")) == [[384] * 32, 0, 1]

"""Compiled kernels on disk: found again, rebuilt when damaged, and kept only where nobody else can write."""

import ast
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.caching import FunctionCache

from bitnet_numba.backends.cpu.compiler import kernel_cache
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.norm import rms_norm
from bitnet_numba.backends.cpu.simd import cpu
from tests.subprocesses import run_python

PACKAGE = Path(kernel_cache.__file__).parent.parent
CACHE_VARIABLES = ("BITNET_CACHE_DIR", "XDG_CACHE_HOME", "HOME")


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test an empty cache, and the process its own one back."""
    root = tmp_path / "cache"
    monkeypatch.setenv("BITNET_CACHE_DIR", str(root))
    kernel_cache.cache_dir.cache_clear()
    yield root
    kernel_cache.cache_dir.cache_clear()


def folder() -> Path | None:
    """Look for the cache as a new process would."""
    kernel_cache.cache_dir.cache_clear()
    return kernel_cache.cache_dir()


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
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_entry_is_dropped_and_built_anew(cache_root: Path, kind: str, damage: Callable[[Path], None]) -> None:
    hits_and_misses()
    files = list(cache_root.rglob(f"*.{kind}"))
    assert files
    for file in files:
        damage(file)
    assert hits_and_misses() == (0, 1)
    assert hits_and_misses() == (1, 0)


def test_a_full_disk_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FunctionCache, "save_overload", refuse)
    assert hits_and_misses() == (0, 1)


def test_the_caller_of_numba_keeps_its_own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache.numba.config, "CACHE_DIR", "/of/another/program")
    jit(rms_norm.py_func)  # type: ignore[attr-defined]
    assert kernel_cache.numba.config.CACHE_DIR == "/of/another/program"


def test_nothing_is_warm_before_a_model_ran() -> None:
    hits_and_misses()
    assert not kernel_cache.is_warm()


def test_every_source_of_a_constant_names_the_folder() -> None:
    """Numba bakes imported constants into machine code: a changed one must not meet old code."""
    sources = kernel_cache.compiled_sources()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            of_backend = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "bitnet_numba.backends.cpu."
            )
            if of_backend and any(alias.name.isupper() for alias in node.names):
                module = node.module.removeprefix("bitnet_numba.backends.cpu.").replace(".", "/")
                assert {PACKAGE / f"{module}.py", PACKAGE / module / "__init__.py"} & set(sources), module


# ---- where it is kept ------------------------------------------------------------------------------------------------
def test_the_folder_is_private_and_named_for_the_instruction_set(cache_root: Path) -> None:
    found = folder()
    assert found is not None
    assert found.parent == cache_root / "kernels"
    assert found.name.startswith(f"{cpu.isa()}-")
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


def test_another_cpu_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    here = folder()
    monkeypatch.setattr(cpu, "brand", lambda: "Another CPU")
    assert folder() != here


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702])
def test_a_folder_that_others_write_to_is_not_used(mode: int) -> None:
    found = folder()
    assert found is not None
    found.chmod(mode)
    assert folder() is None
    assert [hits_and_misses(), hits_and_misses()] == [(0, 1), (0, 1)]  # computed each time
    assert not list(found.iterdir())


def test_a_folder_of_somebody_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder() is not None
    somebody = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    assert folder() is None


def test_a_folder_that_cannot_be_written_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert folder() is None
    assert not kernel_cache.is_warm()


def test_a_folder_that_cannot_be_made_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert folder() is None
    assert [hits_and_misses(), hits_and_misses()] == [(0, 1), (0, 1)]


def test_without_a_wish_the_cache_lies_where_caches_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITNET_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found = folder()
    assert found is not None
    assert found.is_relative_to(tmp_path / "xdg" / "bitnet-numba" / "kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    found = folder()
    assert found is not None
    assert found.is_relative_to(tmp_path / "home" / ".cache" / "bitnet-numba" / "kernels")


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("BITNET_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert folder() is None


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
    assert done.stderr == ""
    result: list[Any] = json.loads(done.stdout)
    return result


def test_the_next_process_compiles_nothing(tmp_path: Path) -> None:
    """That holds only while no kernel uses an operation that lives in a closure: Numba would never find it again."""
    assert run_program(HOME=str(tmp_path)) == [[384] * 32, 0, 1]
    assert run_program(HOME=str(tmp_path)) == [[384] * 32, 1, 0]


def test_a_home_that_is_no_folder_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run_program(HOME=str(tmp_path / "file")) == [[384] * 32, 0, 1]

"""Kernels that a package brings along: loaded where they fit and are whole, else compiled, and said so."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet_numba.backends.cpu.compiler import compilation, kernel_cache, shipped
from bitnet_numba.backends.cpu.compiler.compiled import compiled
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.norm import rms_norm
from bitnet_numba.backends.cpu.simd import cpu
from tests.fakes import wait_until


def run_norm() -> int:
    """Compile or load RMSNorm as a new process would; return how many functions were compiled."""
    before = compiled.kernels
    norm: Any = jit(rms_norm.py_func)  # type: ignore[attr-defined]
    x = np.full(32, 3, np.float32)
    norm(x, np.ones(32, np.float32), np.float32(7), np.float32(32), x)
    np.testing.assert_array_equal(x, np.float32(0.75))
    return compiled.kernels - before


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package that ships RMSNorm, and leave the user's own cache empty."""
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "made"))
    assert run_norm() > 0
    made = kernel_cache.cache_dir()
    assert made is not None
    package = tmp_path / "site" / shipped.PACKAGE
    files = {path.name: path.read_bytes() for path in made.glob("*.nbc")}
    folder = package / "kernels" / made.name
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (package / "__init__.py").touch()
    write_list(package, {made.name: {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}})
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "empty"))
    forget()
    yield package
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Look for the package anew, as a new process would."""
    shipped.forget()
    sys.modules.pop(shipped.PACKAGE, None)


def write_list(package: Path, folders: dict[str, dict[str, str]]) -> None:
    listed = {"version": "9.9", "made_for": "Python 3.1", "folders": folders}
    (package / shipped.LIST).write_text(json.dumps(listed), encoding="utf-8")


def folders_of(package: Path) -> dict[str, dict[str, str]]:
    folders: dict[str, dict[str, str]] = json.loads((package / shipped.LIST).read_text("utf-8"))["folders"]
    return folders


@pytest.mark.usefixtures("package")
def test_what_is_shipped_is_not_compiled() -> None:
    assert run_norm() == 0
    assert shipped.shipped().reason is None
    own = kernel_cache.cache_dir()
    assert own is not None
    assert not list(own.iterdir())


def test_a_changed_file_is_not_loaded(package: Path) -> None:
    """Even one whose own digest was made to fit: the list is what counts."""
    for path in package.rglob("*.nbc"):
        content = b"cos\nsystem\n(S'false'\ntR."  # a pickle that would run a program
        path.write_bytes(hashlib.sha256(content).digest() + content)
    assert run_norm() > 0


def test_a_missing_file_is_compiled(package: Path) -> None:
    for path in package.rglob("*.nbc"):
        path.unlink()
    assert run_norm() > 0


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        (f"{cpu.isa()}-0123456789abcdef", "bitnet_numba_kernels 9.9 is for other versions or settings: Python 3.1"),
        ("avx999-0123456789abcdef", f"bitnet_numba_kernels 9.9 has none for {cpu.isa()}"),
    ],
)
def test_what_does_not_fit_is_compiled_and_said_so(
    package: Path, folder: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [files] = folders_of(package).values()
    write_list(package, {folder: files})
    monkeypatch.setattr(compilation, "NOTICE_DELAY", 0.0)
    assert run_norm() > 0
    wait_until(lambda: bool(caplog.records))
    assert caplog.records[0].getMessage().endswith(f" ({reason})")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "not JSON"])
def test_a_damaged_list_is_said_so(package: Path, text: str) -> None:
    (package / shipped.LIST).write_text(text, encoding="utf-8")
    assert shipped.shipped() == (None, {}, "bitnet_numba_kernels: no list of kernels; install it again")
    assert run_norm() > 0


def test_without_the_package_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    forget()
    assert shipped.shipped() == (None, {}, None)
    monkeypatch.undo()
    forget()

"""Kernels that are compiled by themselves: callers reach them, however both were compiled, here or in a process."""

from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from numba.core.errors import NumbaWarning

from bitnet_numba import machine_limits
from bitnet_numba.backends.cpu.compiler.compiled import compiled
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_separate
from bitnet_numba.backends.cpu.compiler.separate import Use
from bitnet_numba.backends.cpu.compiler.workers import Workers
from bitnet_numba.backends.cpu.kernels.registry import new_counts
from bitnet_numba.backends.cpu.kernels.ternary import pack, ternary_gemv
from bitnet_numba.machine_limits import CoreLimit
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import alone
from tests.fakes import wait_until


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache."""
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@jit_separate
def add(x: npt.NDArray[np.float64], value: Any) -> None:
    x += value


@jit_separate
def add_twice(x: npt.NDArray[np.float64], value: Any) -> None:
    add(x, value)
    add(x, value)


@jit_separate
def refuse(x: npt.NDArray[np.float64]) -> None:
    if x[0] < 0:
        raise ValueError("negative")
    x[0] = 0


@jit
def add_often(x: npt.NDArray[np.float64], value: Any) -> None:
    add_twice(x, value)
    add(x, value)


@jit
def refuse_inside(x: npt.NDArray[np.float64]) -> None:
    refuse(x)
    x[0] += 1


def test_kernels_are_called_from_python_and_from_kernels() -> None:
    x = np.zeros(3)
    add(x, 1.0)
    np.testing.assert_array_equal(x, 1)
    add_often(x, 2.0)
    np.testing.assert_array_equal(x, 7)


def test_any_jitted_function_may_call_them() -> None:
    @numba.njit  # type: ignore[untyped-decorator]
    def of_another_program(x: Any) -> None:
        add_twice(x, 1)

    x = np.zeros(3)
    of_another_program(x)
    np.testing.assert_array_equal(x, 2)


def test_a_constant_is_no_reason_to_compile_again() -> None:
    @jit
    def with_constants(x: Any) -> None:
        add(x, 3)
        add(x, 4)

    @jit
    def with_a_variable(x: Any, value: int) -> None:
        add(x, value)

    x = np.zeros(2)
    with_constants(x)
    before = sum(add.stats.cache_misses.values())  # type: ignore[attr-defined]
    with_a_variable(x, 5)
    np.testing.assert_array_equal(x, 12)
    assert sum(add.stats.cache_misses.values()) == before  # type: ignore[attr-defined]


def test_what_a_kernel_raises_reaches_python() -> None:
    x = np.array([5.0])
    refuse_inside(x)
    assert x[0] == 1
    with pytest.raises(ValueError, match="negative"):
        refuse_inside(-x)


def test_another_caller_and_the_next_process_find_the_kernel(cache: Path) -> None:
    """A new dispatcher stands for a new process: it loads caller and kernel, and links them."""
    first: Any = jit(add_often.py_func)  # type: ignore[attr-defined]
    first(np.zeros(2, np.float32), np.float32(1))
    assert list(cache.rglob("test_separate.add_often-*.nbc"))
    before = compiled.kernels
    again: Any = jit(add_often.py_func)  # type: ignore[attr-defined]
    x = np.zeros(2, np.float32)
    again(x, np.float32(1))
    np.testing.assert_array_equal(x, 3)
    assert compiled.kernels == before


def test_numbas_own_cache_keeps_no_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries would be found by processes in which the kernel is not."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))

    @numba.njit(cache=True)  # type: ignore[untyped-decorator]
    def of_another_program(x: Any) -> None:
        add(x, 1.0)

    with pytest.warns(NumbaWarning, match="Cannot cache compiled function"):
        of_another_program(np.zeros(2))
    assert not list((tmp_path / "numba").rglob("*.nbc"))


# ---- in other processes ----------------------------------------------------------------------------------------------
def a_use() -> Use:
    weights = pack(reference.pack_i2s(np.ones((32, 128), np.int8)))
    arrays = alone(), new_counts(), weights, np.ones(128, np.int8), 128, np.zeros(32, np.int32)
    ternary_gemv(*arrays)
    return Use(ternary_gemv.__module__, "ternary_gemv", tuple(map(numba.typeof, arrays)))


@pytest.mark.slow
def test_a_process_compiles_into_the_same_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use = a_use()
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setattr(machine_limits, "usable_cores", lambda: CoreLimit(2, "test"))
    assert not use.dispatcher._cache.holds(use.arguments)
    workers = Workers()
    workers.submit(use)
    wait_until(lambda: use.dispatcher._cache.holds(use.arguments))
    wait_until(lambda: workers.take([use]) == use)  # to load it
    assert workers.close() > 0


def test_one_core_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_limits, "usable_cores", lambda: CoreLimit(1, "test"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    use = a_use()
    workers = Workers()
    workers.submit(use)
    assert workers.take([use]) == use
    workers.close()

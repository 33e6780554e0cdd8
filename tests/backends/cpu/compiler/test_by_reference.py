"""Named tuples by reference: fields are what they are by value, however deep, and copies see the same memory."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from numba.core.errors import TypingError

from bitnet_numba.backends.cpu.compiler.by_reference import by_reference
from bitnet_numba.backends.cpu.compiler.jit import jit


class Inner(NamedTuple):
    is_set: bool
    values: npt.NDArray[np.float32]
    scale: np.float32


class Outer(NamedTuple):
    count: int
    inner: Inner
    more: npt.NDArray[np.int64]


@jit
def read_all(outer: Outer, out: npt.NDArray[np.float64]) -> None:
    reference = by_reference(outer)
    inner = reference.inner
    out[0], out[1], out[2] = reference.count, inner.is_set, inner.scale
    out[3], out[4] = inner.values[1], reference.more[reference.count]


@jit
def double(inner: Inner) -> None:
    for index in range(inner.values.size):
        inner.values[index] *= inner.scale


@jit
def double_each(outers: tuple[Outer, Outer], times: int) -> None:
    """Pass references on, and make new ones in a loop."""
    for time in range(times):
        double(by_reference(outers[time % 2]).inner)


@jit
def read_what_is_not_there(outer: Outer) -> int:
    missing: int = by_reference(outer).missing  # type: ignore[attr-defined]
    return missing


def outer_of(count: int) -> Outer:
    return Outer(count, Inner(True, np.arange(4, dtype=np.float32), np.float32(2)), np.arange(10) * 10)


def test_fields_are_read() -> None:
    out = np.zeros(5)
    read_all(outer_of(7), out)
    np.testing.assert_array_equal(out, [7, 1, 2, 1, 70])


def test_a_reference_is_of_the_tuple_that_it_was_made_of_last() -> None:
    outers = outer_of(1), outer_of(2)
    double_each(outers, 5)
    np.testing.assert_array_equal(outers[0].inner.values, np.arange(4) * 8)
    np.testing.assert_array_equal(outers[1].inner.values, np.arange(4) * 4)


def test_a_field_that_is_not_there_does_not_compile() -> None:
    with pytest.raises(TypingError, match="missing"):
        read_what_is_not_there(outer_of(1))

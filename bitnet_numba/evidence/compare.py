"""Comparison of two receipts, field by field."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bitnet_numba.errors import excerpt, printable

INFORMATIVE = frozenset(
    (
        "timestamp",
        "backend_summary",
        "kernels",
        "kernel_calls",
        "environment",
        "performance_baseline",
        "test_results",
        "parity",
        "signature",
    )
)
"""Fields about when, where, how fast and by which kernels: two runs of one answer may differ in them, and a replay does
not check them."""

_MISSING = object()


class Change(NamedTuple):
    """A field in which two receipts differ."""

    field: str
    first: object
    second: object

    @property
    def is_essential(self) -> bool:
        """Whether the receipts are of different computations."""
        return self.field.split(".")[0].split("[")[0] not in INFORMATIVE

    def __str__(self) -> str:
        mark = "" if self.is_essential else " (informative)"
        return printable(f"{self.field}: {_shown(self.first)} -> {_shown(self.second)}{mark}")


def compare_receipts(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    """Return the fields that differ, in the order of the first receipt; of a list, the first index that does."""
    return list(_compare("", first, second))


def _compare(place: str, first: Any, second: Any) -> Iterator[Change]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for name in [*first, *(name for name in second if name not in first)]:
            inner = f"{place}.{name}" if place else name
            yield from _compare(inner, first.get(name, _MISSING), second.get(name, _MISSING))
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        at = next((i for i, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]), None)
        if at is not None:
            yield from _compare(f"{place}[{at}]", first[at], second[at])
    elif first is _MISSING or second is _MISSING or first != second:
        yield Change(place, first, second)


def _shown(value: object) -> str:
    if value is _MISSING:
        return "missing"
    return f"{len(value):,} items" if isinstance(value, list) else excerpt(value)

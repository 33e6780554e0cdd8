"""What this process may use of the machine: cores and memory, within CPU affinity and the limits of its control groups.

Containers set cgroup limits; a program that takes one thread per core of the host is throttled under a CPU quota, and
is killed where it takes the host's free memory for its own.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
_UNLIMITED_V1 = 1 << 60  # bytes; version 1 writes a number near 2**63 for no limit


class CoreLimit(NamedTuple):
    """A number of cores, and what limits it to that."""

    cores: int
    reason: str


def usable_cores(root: Path = ROOT) -> CoreLimit:
    """Return the number of cores that this process may use: the least of CPU affinity and every cgroup's quota.

    A quota counts as whole cores, at least one: threads of a part of a core would wait for each other. ``root`` is
    where /proc and /sys are mounted.
    """
    limits = [CoreLimit(len(os.sched_getaffinity(0)), "CPU affinity"), *_quotas(root)]
    return min(limits, key=lambda limit: limit.cores)


def available_bytes(root: Path = ROOT) -> int | None:
    """Return how much memory this process may still take: Linux's estimate, or what a cgroup leaves, if that is less.

    None where /proc is not mounted.
    """
    amounts = [amount for amount in (_free_memory(root), *_group_memory(root)) if amount is not None]
    return min(amounts, default=None)


# ---- cores -----------------------------------------------------------------------------------------------------------
def _quotas(root: Path) -> Iterator[CoreLimit]:
    for folder in _groups(root, "cpu"):
        quota, period = _quota(folder)
        if quota is not None and quota > 0 and period:
            yield CoreLimit(max(1, quota // period), f"CPU quota of {quota / period:g} cores ({_name(root, folder)})")


def _quota(folder: Path) -> tuple[int | None, int | None]:
    """Return microseconds of CPU time, and of the period in which they may be used."""
    words = _words(folder / "cpu.max")
    if len(words) == 2:
        return _number(words[0]), _number(words[1])
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return _number(*quota[:1]), _number(*period[:1])


# ---- memory ----------------------------------------------------------------------------------------------------------
def _free_memory(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_memory(root: Path) -> Iterator[int]:
    """Yield what the limit of each cgroup leaves, file pages not counted: the system takes those back when needed."""
    for folder in _groups(root, "memory"):
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _number(*_words(folder / limit_name)[:1]), _number(*_words(folder / usage_name)[:1])
            if limit is not None and usage is not None and limit < _UNLIMITED_V1:
                yield max(0, limit - max(0, usage - _file_pages(folder)))


def _file_pages(folder: Path) -> int:
    counts = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if len(line.split()) == 2)
    return sum(_number(counts.get(name, "0")) or 0 for name in ("inactive_file", "active_file"))


# ---- control groups --------------------------------------------------------------------------------------------------
def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and its parents, of both versions, as far as they are mounted."""
    paths = _own_paths(root)
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        key = "" if kind[0] == "cgroup2" else controller
        if kind[0] == "cgroup" and controller not in kind[2].split(","):
            continue
        top = root / fields[4].lstrip("/")
        yield from _upwards(top, fields[3], paths.get(key))


def _own_paths(root: Path) -> dict[str, str]:
    """Return the path of this process's cgroup by controller; that of version 2 by an empty name."""
    paths: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


def _upwards(top: Path, mounted: str, path: str | None) -> Iterator[Path]:
    """Yield a cgroup's folder and its parents' up to the mount point, which shows the hierarchy from ``mounted`` on."""
    if path is None:
        return
    inside = path.removeprefix(mounted.rstrip("/")) if path.startswith(mounted) else ""
    folder = top / inside.strip("/")
    if ".." in folder.parts or not folder.is_dir():  # the group lies outside of what the container sees
        folder = top
    while True:
        yield folder
        if folder == top:
            return
        folder = folder.parent


def _name(root: Path, folder: Path) -> str:
    return f"/{folder.relative_to(root)}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    lines = _lines(path)
    return lines[0].split() if lines else []


def _number(text: str = "") -> int | None:
    return int(text) if text.lstrip("-").isascii() and text.lstrip("-").isdigit() else None

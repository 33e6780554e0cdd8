"""Compare the peak memory of a process with what its model needs: weights, KV cache, cached prefixes, touched pages."""

import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_numba.backends.protocol import PAGE_POSITIONS

ALLOWANCE = 300_000_000
"""Bytes for everything that does not grow with the model: Python, NumPy, Numba, compiled kernels, scratch memory."""

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(?P<path>.*)$")
_RESIDENT = re.compile(r"^Rss: +(?P<kilobytes>\d+) kB$")


def check_memory(
    facts: Mapping[str, Mapping[str, Any]], n_positions: int, prefix_bytes: int, *, compiled: bool
) -> dict[str, Any]:
    """Compare the peak memory of this process with what its model needs.

    ``facts`` are those of ``model.info()``, ``n_positions`` is the length of the sequence that was run, and
    ``prefix_bytes`` the size of the prefix cache before it. ``compiled`` tells whether this process compiled kernels:
    the plan has no room for the compiler. Returns the parts of the plan, their sum ``allowed`` and ``peak`` in bytes;
    ``holds`` is None if that is unknown.
    """
    memory = facts["memory"]
    touched = touched_bytes(Path(facts["model"]["path"]))
    parts = {
        "ternary_weights": memory["ternary_weights"],
        "head_int8_copy": memory["head_int8_copy"],
        "embedding_and_head_copied": memory["embedding_and_head_copied"],
        "kv_cache": memory["kv_cache_per_position"] * -(-n_positions // PAGE_POSITIONS) * PAGE_POSITIONS,
        "cached_prefixes": prefix_bytes,
        "file_pages_touched": touched,
        "everything_else": ALLOWANCE,
    }
    allowed = sum(value or 0 for value in parts.values())
    peak = round(peak_memory_mb() * 1e6)
    is_known = touched is not None and not compiled
    return {**parts, "allowed": allowed, "peak": peak, "holds": peak <= allowed if is_known else None}


def touched_bytes(path: Path) -> int | None:
    """Return the bytes that this process maps and holds of a file or a folder's files; None if not on Linux."""
    mappings = Path("/proc/self/smaps")
    if sys.platform != "linux" or not mappings.exists():
        return None
    wanted, resident, inside = path.resolve(), 0, False
    for line in mappings.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        mapping, size = _MAPPING.match(line), _RESIDENT.match(line)
        if mapping:
            inside = mapping["path"].startswith("/") and Path(mapping["path"]).is_relative_to(wanted)
        elif size and inside:
            resident += int(size["kilobytes"]) * 1024
    return resident


def peak_memory_mb() -> float:
    """Return the peak resident size of this process in units of 10**6 bytes."""
    if sys.platform == "linux":
        # getrusage would do, but passes a parent's larger peak on to the programs that it starts
        status = Path("/proc/self/status")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
        if found:
            return int(found[1]) * 1024 / 1e6
    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes * (1 if sys.platform == "darwin" else 1024) / 1e6

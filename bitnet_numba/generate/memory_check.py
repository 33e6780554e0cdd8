"""Does a process hold as little memory as its model needs? The plan, and what was observed."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_numba.backends.cpu.kernels.attention import POSITIONS_PER_BLOCK
from bitnet_numba.backends.cpu.padded_sizes import round_up
from bitnet_numba.generate.peak_memory import peak_memory_mb

ALLOWANCE = 300_000_000
"""Bytes for everything that does not grow with the model: Python, NumPy, Numba, compiled kernels, scratch memory."""

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(?P<path>.*)$")
_RESIDENT = re.compile(r"^Rss: +(?P<kilobytes>\d+) kB$")


def check_memory(
    facts: Mapping[str, Mapping[str, Any]], n_positions: int, kept_bytes: int, *, compiled: bool
) -> dict[str, Any]:
    """Compare the most memory that this process has held with what its model needs.

    Parameters
    ----------
    facts : mapping of str to mapping
        Of ``model.info()``.
    n_positions : int
        Of the sequence that has been read and written.
    kept_bytes : int
        Keys and values that were kept of sequences before it.
    compiled : bool
        Whether kernels were compiled in this process: the compiler's memory is no part of the plan.

    Returns
    -------
    dict of str to object
        The plan's parts, their sum ``allowed``, and ``peak``, in bytes; ``holds`` is None where there is no telling.
    """
    memory = facts["memory"]
    touched = touched_bytes(Path(facts["model"]["path"]))
    parts = {
        "ternary_weights": memory["ternary_weights"],
        "head_int8_copy": memory["head_int8_copy"],
        "embedding_and_head_copied": memory["embedding_and_head_copied"],
        "kv_cache": memory["kv_cache_per_position"] * round_up(n_positions, POSITIONS_PER_BLOCK),
        "kept_prefixes": kept_bytes,
        "file_pages_touched": touched,
        "everything_else": ALLOWANCE,
    }
    allowed = sum(value or 0 for value in parts.values())
    peak_mb = peak_memory_mb()
    peak = None if peak_mb is None else round(peak_mb * 1e6)
    can_tell = peak is not None and touched is not None and not compiled
    return {**parts, "allowed": allowed, "peak": peak, "holds": peak <= allowed if can_tell and peak else None}


def touched_bytes(path: Path) -> int | None:
    """Return how much of a file, or of the files in a directory, this process holds in mapped pages.

    Returns
    -------
    int or None
        None where no system call tells: only Linux does.
    """
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

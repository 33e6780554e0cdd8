"""The most memory that this process has held."""

import re
import sys
from pathlib import Path


def peak_memory_mb() -> float | None:
    """Read the process's largest resident size so far, in units of 10**6 bytes; ``None`` where no system call tells."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        # getrusage would do, but hands a parent's larger peak down to the programs that it starts
        status = Path("/proc/self/status")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
        if found:
            return int(found[1]) * 1024 / 1e6
    import resource  # not on Windows

    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes * (1 if sys.platform == "darwin" else 1024) / 1e6

"""Python programs run in the checkout, where a test needs a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bitnet_numba.backends.cpu.simd import cpu

ROOT = Path(__file__).parent.parent
ISAS = (*cpu.available_isas(), cpu.EMULATED_TILES)

ResultT = TypeVar("ResultT")


def run_python(*arguments: str, without: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python under ``-W error``, with variables added to the environment and others taken out of it."""
    inherited = {name: value for name, value in os.environ.items() if name not in without}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def for_each_isa(work: Callable[[str], ResultT]) -> dict[str, ResultT]:
    """Return what some work, in processes of its own, gives for each instruction set; two sets at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(ISAS, pool.map(work, ISAS), strict=True))

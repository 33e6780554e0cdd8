"""How long until the first token, and what bounds it?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    make kernels
    python -m bench.startup -m /tmp/2b.gguf --kernels dist/bitnet_numba_kernels-*.whl

Each start is a process of its own: interpreter, imports, loading, compiled kernels and the first byte of text; Python
may keep its bytecode, as it does for what is installed. The bound is the time of reading the file, once into a buffer
that is used again and once into new memory, which the system must first find. A cold start has an empty kernel cache
and compiles everything; a shipped one has an empty cache and a wheel of compiled kernels, for the fastest instruction
set that both CPU and wheel have.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from bench.common import interleaved
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.model.open import model_path

BUFFER_BYTES = 16 << 20


def seconds(action: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def read_again(path: Path) -> None:
    """Read a file into one buffer, over and over."""
    buffer = bytearray(BUFFER_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def start(model: str, **changed: str) -> tuple[float, float]:
    """Run a process until it has generated one token; return the seconds to its first byte of text, and to its end.

    ``changed`` are environment variables.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | changed
    command = [sys.executable, "-m", "bitnet_numba", "run", "-m", model, "Hi", "--max-tokens", "1"]
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        text, errors = process.stdout, process.stderr
        if text is None or errors is None:
            raise RuntimeError("a pipe was asked for, and none is there")
        first_byte = text.read(1)
        until_first = time.perf_counter() - started
        message = errors.read().decode()
    if process.returncode or not first_byte:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}: {message}")
    return until_first, time.perf_counter() - started


def first_token(model: str) -> float:
    """Return the seconds from the start of a process to its first byte of text."""
    return start(model)[0]


def cold_start() -> float:
    """Return the seconds of a first start, which compiles every kernel."""
    with tempfile.TemporaryDirectory() as cache:
        return start("demo", BITNET_CACHE_DIR=cache)[0]


def shipped_start(folder: str, isa: str) -> float:
    """Return the seconds of a first start with the kernels in a folder; SystemExit if it has compiled anything."""
    path = os.pathsep.join([folder, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    with tempfile.TemporaryDirectory() as cache:
        seconds = start("demo", BITNET_CACHE_DIR=cache, BITNET_ISA=isa, PYTHONPATH=path)[0]
        if list(Path(cache).rglob("*.nbc")):
            raise SystemExit(f"{isa}: the wheel does not fit; make it again")
    return seconds


def unpacked(wheel: Path, folder: str) -> str:
    """Unpack a wheel of kernels, and return the fastest instruction set that it has for this CPU."""
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder)
        shipped = {Path(name).parent.name.rpartition("-")[0] for name in files.namelist()}
    return next(isa for isa in cpu.available_isas() if isa in shipped)


def main() -> None:
    """Print a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action=argparse.BooleanOptionalAction, default=True, help="compile everything once")
    parser.add_argument("--kernels", type=Path, metavar="WHEEL", help="measure a first start with this wheel too")
    arguments = parser.parse_args()
    path = model_path(arguments.model)
    first_token("demo")  # its kernels are compiled, and files lie in the page cache, before anything is measured
    measures: dict[str, Callable[[], float]] = {
        "read_seconds": lambda: seconds(lambda: read_again(path)),
        "read_new_memory_seconds": lambda: seconds(path.read_bytes),
        "first_token_seconds": lambda: first_token(str(path)),
        "embedded_first_token_seconds": lambda: first_token("demo"),
    }
    medians = interleaved(arguments.rounds, *measures.values())
    result = {name: round(median, 3) for name, median in zip(measures, medians, strict=True)}
    if arguments.cold:
        result["cold_first_token_seconds"] = round(cold_start(), 2)
    if arguments.kernels:
        with tempfile.TemporaryDirectory() as folder:
            isa = unpacked(arguments.kernels, folder)
            shipped_start(folder, isa)  # Python keeps its bytecode
            [shipped] = interleaved(arguments.rounds, lambda: shipped_start(folder, isa))
        result["shipped_first_token_seconds"] = round(shipped, 2)
    size = path.stat().st_size
    again, new = result["read_seconds"], result["read_new_memory_seconds"]
    print(f"bound by reading {size / 1e6:.0f} MB: {again:.2f} s into a buffer used again, {new:.2f} s into new memory")
    for name, value in result.items():
        print(f"{name:32}{value:8.2f}")
    print(json.dumps({"model_bytes": size, **result}))


if __name__ == "__main__":
    main()

"""How long until the first token, and what bounds it?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.startup -m /tmp/2b.gguf

Each start is a process of its own: interpreter, imports, loading, compiled kernels and one token. The bound is the time
of reading the file, once into a buffer that is used again and once into new memory, which the system must first find.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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


def first_token(model: str, cache: str | None = None) -> None:
    """Run a process until it has generated one token."""
    environment = os.environ if cache is None else {**os.environ, "BITNET_CACHE_DIR": cache}
    command = [sys.executable, "-m", "bitnet_numba", "run", "-m", model, "Hi", "--max-tokens", "1"]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def cold_start() -> float:
    """Return the seconds of a first start, which compiles every kernel."""
    with tempfile.TemporaryDirectory() as cache:
        return seconds(lambda: first_token("demo", cache))


def main() -> None:
    """Print a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action=argparse.BooleanOptionalAction, default=True, help="compile everything once")
    arguments = parser.parse_args()
    path: Path = arguments.model
    first_token("demo")  # its kernels are compiled, and files lie in the page cache, before anything is measured
    measures = {
        "read_seconds": lambda: read_again(path),
        "read_new_memory_seconds": path.read_bytes,
        "first_token_seconds": lambda: first_token(str(path)),
        "embedded_first_token_seconds": lambda: first_token("demo"),
    }
    taken = [{name: seconds(action) for name, action in measures.items()} for _ in range(arguments.rounds)]
    result = {name: round(statistics.median(row[name] for row in taken), 3) for name in measures}
    if arguments.cold:
        result["cold_first_token_seconds"] = round(cold_start(), 2)
    size = path.stat().st_size
    again, new = result["read_seconds"], result["read_new_memory_seconds"]
    print(f"bound by reading {size / 1e6:.0f} MB: {again:.2f} s into a buffer used again, {new:.2f} s into new memory")
    for name, value in result.items():
        print(f"{name:32}{value:8.2f}")
    print(json.dumps({"model_bytes": size, **result}))


if __name__ == "__main__":
    main()

"""Run every script, and keep what each one found.

    make bench
    python -m bench.suite decode context
    BENCH_MODEL=~/ggml-model-i2_s.gguf python -m bench.suite decode-2B-4T

Models of three shapes are made in .cache/bench where they are missing; BENCH_MODEL stands in for the 2B-4T one. Each
run's JSON object goes to docs/reference/performance/, beside its command, the date and the machine.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.common import options
from bench.make_model import SHAPES, make_model
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.machine_limits import usable_cores

TOP = Path(__file__).parent.parent
MODELS = Path(".cache") / "bench"
RESULTS = TOP / "docs" / "reference" / "performance"
MAIN_SHAPE = "2B-4T"
SMALL_SHAPE = "0.7B"  # for the instruction sets, of which the generic one takes its time
THREADS = (1, 2)
LONG_PROMPTS = ("512", "2048", "4000")


class Run(NamedTuple):
    """A script with its arguments.

    Attributes
    ----------
    name : str
        Of the file that keeps the result.
    script : str
    arguments : sequence of str
    shape : str or None
        Of the model that it runs on; None for a script that needs no file.
    """

    name: str
    script: str
    arguments: Sequence[str] = ()
    shape: str | None = None

    def command(self) -> list[str]:
        """Return the command as a person would type it in the checkout."""
        model = [] if self.shape is None else ["-m", str(model_path(self.shape))]
        return ["python", "-m", f"bench.{self.script}", *model, *self.arguments]


def runs() -> list[Run]:
    """Return all runs, in the order in which the page shows them."""
    found = [Run(f"{wall}-{n}", wall, ["--threads", str(n)]) for wall in ("read", "peak", "fma") for n in THREADS]
    for shape in SHAPES:
        for n in THREADS:
            threads = ["--threads", str(n)]
            found.append(Run(f"decode-{shape}-{n}", "decode", threads, shape))
            found.append(Run(f"prefill-{shape}-{n}", "prefill", [*threads, "--rounds", "3"], shape))
    found += [
        Run("context", "context", [], MAIN_SHAPE),
        Run("prompts", "prefill", ["--tokens", *LONG_PROMPTS, "--rounds", "2"], MAIN_SHAPE),
        *(Run(f"kernels-{n}", "kernels", ["--threads", str(n), "--rounds", "9"]) for n in THREADS),
        Run("batch", "batch", [], MAIN_SHAPE),
        Run("startup", "startup", [], MAIN_SHAPE),
        Run("contend", "contend", [], MAIN_SHAPE),
        Run(
            "isa",
            "isa",
            ["--threads", "2", "--chunks", "64", "--prompt-tokens", "64", "--tokens", "16", "--rounds", "3"],
            SMALL_SHAPE,
        ),
        Run("kv", "kv", ["--context", "2048"], MAIN_SHAPE),
        Run("lookup", "lookup", [], MAIN_SHAPE),
        Run("peers", "peers", [], MAIN_SHAPE),
    ]
    return found


def model_path(shape: str) -> Path:
    """Return where the model of a shape lies."""
    named = os.environ.get("BENCH_MODEL")
    return Path(named) if named and shape == MAIN_SHAPE else MODELS / f"{shape}.gguf"


def machine() -> dict[str, Any]:
    """Return what a speed depends on besides the program."""
    packages = ("numba", "llvmlite", "numpy")
    return {
        "cpu": cpu.brand(),
        "cores": usable_cores().cores,
        "isa": cpu.isa(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def measure(run: Run) -> None:
    """Run one script, show what it prints, and keep its last line."""
    if run.shape is not None:
        path = TOP / model_path(run.shape)
        if path.is_relative_to(TOP / MODELS) and not path.exists():
            make_model(run.shape, path)
    _, *arguments = run.command()
    print(f"\n$ {' '.join(run.command())}", flush=True)
    done = subprocess.run([sys.executable, *arguments], cwd=TOP, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", flush=True)
    record = {
        "command": " ".join(run.command()),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "result": json.loads(done.stdout.splitlines()[-1]),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{run.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run what the command line names, else everything."""
    parser = options(__doc__)
    parser.add_argument("names", nargs="*", help="of runs, or how they begin")
    names = parser.parse_args().names
    chosen = [run for run in runs() if not names or any(run.name.startswith(name) for name in names)]
    if not chosen:
        parser.error(f"no run begins so; there are {', '.join(run.name for run in runs())}")
    for run in chosen:
        measure(run)


if __name__ == "__main__":
    main()

"""Compare the digests of this machine with those of an emulated AArch64: ``python -m tests.aarch64.check ROOT``.

ROOT is what ``tests/aarch64/make_root.sh`` has made. The first run compiles all kernels under emulation, which takes
some minutes; they are kept in ROOT.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.backends.cpu.toys_of_digest import write_toys

CHECKOUT = Path(__file__).parents[2]
ISAS = ("neon_dotprod", "generic")
RUNS = {  # models, and how much of them: emulation is slow
    "toys": ("--prompt-tokens", "100", "--tokens", "64"),
    "demo": ("--prompt-tokens", "40", "--tokens", "16", "--chunks", "1", "64"),
}

Digests = dict[tuple[str, str], str]


class Failed(Exception):
    """A program that did not run to its end; the message is what it said last."""


def run(command: list[str], environment: dict[str, str]) -> str:
    """Return what a program prints."""
    done = subprocess.run(
        command, cwd=CHECKOUT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Failed(f"{command[0]}: exit status {done.returncode}: {said[-1] if said else 'it says nothing'}")
    return done.stdout


def digests(python: list[str], toys: list[str], environment: dict[str, str]) -> Digests:
    """Return the digests by model and way that a Python computes."""
    found: Digests = {}
    for models, options in RUNS.items():
        paths = toys if models == "toys" else [models]
        for line in run([*python, "-m", "bench.digest", *paths, *options], environment).splitlines():
            report = json.loads(line)
            if report["isa"] != environment.get("BITNET_ISA", report["isa"]):
                raise Failed(f"{report['isa']} ran where {environment['BITNET_ISA']} was asked for")
            found |= {(report["model"], way): digest for way, digest in report["digests"].items()}
    return found


def emulated_python(root: Path) -> tuple[list[str], dict[str, str]]:
    """Return how the AArch64 Python is called, and in what environment."""
    binary = (root / "system/usr/bin/python3").readlink()
    command = ["qemu-aarch64-static", "-cpu", "max", "-L", f"{root}/system", f"{root}/system/usr/bin/{binary}"]
    path = os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "cli", root / "site")))
    return command, {"PYTHONPATH": path, "BITNET_CACHE_DIR": str(root / "cache")}


def compare(native: Digests, emulated: Digests) -> list[str]:
    """Return a line for each digest that differs."""
    if native.keys() != emulated.keys():
        raise Failed(f"{len(native)} digests here, {len(emulated)} there")
    return [
        f"{model}, {way}: {native[model, way][:16]} here, {emulated[model, way][:16]} there"
        for model, way in native
        if native[model, way] != emulated[model, way]
    ]


def check(root: Path) -> int:
    """Print what was compared; return how many digests differ."""
    folder = root / "toys"
    folder.mkdir(exist_ok=True)
    toys = [str(path) for path in write_toys(folder)]
    python, environment = emulated_python(root)
    chosen = run(
        [*python, "-c", "from bitnet_numba.backends.cpu.simd import cpu; print(cpu.isa())"], environment
    ).strip()
    if chosen != ISAS[0]:
        raise Failed(f"AArch64: chose {chosen} by itself, expected {ISAS[0]}")
    sys.stderr.write("kernels that are not there yet are compiled under emulation: some minutes\n")
    with ThreadPoolExecutor(len(ISAS)) as pool:
        there = pool.map(lambda isa: digests(python, toys, environment | {"BITNET_ISA": isa}), ISAS)
        here = digests([sys.executable], toys, {})
        n_different = 0
        for isa, emulated in zip(ISAS, there, strict=True):
            different = compare(here, emulated)
            equal = f"aarch64 {isa}: {len(here) - len(different)} of {len(here)} digests are those of this machine"
            sys.stdout.write("\n".join([equal, *different, ""]))
            n_different += len(different)
    return n_different


if __name__ == "__main__":
    try:
        sys.exit(1 if check(Path(sys.argv[1]).resolve()) else 0)
    except Failed as failure:
        sys.exit(f"tests.aarch64.check: {failure}")

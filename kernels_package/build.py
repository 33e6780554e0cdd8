"""Compile the kernels of each instruction set into the package, list their digests, and build the wheel.

    make kernels
    python -m kernels_package.build --isas avx2 --models demo --out dist

The wheel is for the Python that runs this. Each instruction set takes a process with one core, so that names and the
order of compilation, and with them all bytes, are the same every time; a second process tells which files a start
reads.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ISAS = ("avx2", "avx512_vnni", "avx512_vbmi")
MODELS = ("demo", "F16", "Q8_0")
"""The embedded model, whose embedding is BF16, and toy models with other types of embedding."""

HERE = Path(__file__).parent
DATA = HERE / "bitnet_numba_kernels"
_EPOCH = "1577836800"  # of the files in the wheel: 2020-01-01


def compiled(isa: str, models: list[str], cache: Path) -> dict[str, bytes]:
    """Compile one instruction set; return the files that a start with these models reads, by ``folder/name``."""
    command = [sys.executable, "-m", "kernels_package.starts", *models]
    environment = os.environ | {"BITNET_ISA": isa, "BITNET_CACHE_DIR": str(cache), "PYTHONHASHSEED": "0"}
    for _ in range(2):
        done = subprocess.run(command, env=environment, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True)
    paths = [Path(line) for line in done.stdout.splitlines()]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(paths)}


def write(files: dict[str, bytes]) -> None:
    """Write the files and their list into the package."""
    shutil.rmtree(DATA / "kernels", ignore_errors=True)
    folders: dict[str, dict[str, str]] = {}
    for name, content in files.items():
        path = DATA / "kernels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        folders.setdefault(path.parent.name, {})[path.name] = hashlib.sha256(content).hexdigest()
    packages = ", ".join(f"{name} {version(name)}" for name in ("bitnet-numba", "numba", "llvmlite"))
    made_for = f"Python {'.'.join(platform.python_version_tuple()[:2])}, {packages}"
    listed = {"version": version("bitnet-numba"), "made_for": made_for, "folders": folders}
    (DATA / "kernels.json").write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Compile, write and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isas", nargs="+", default=ISAS, choices=ISAS)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--out", type=Path, default=Path("dist"))
    arguments = parser.parse_args()
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as cache:
        for isa in arguments.isas:
            made = compiled(isa, arguments.models, Path(cache))
            print(f"{isa}: {len(made)} files, {sum(map(len, made.values())) / 1e6:.1f} MB", flush=True)
            files |= made
    write(files)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(arguments.out), str(HERE)]
    subprocess.run(command, env=os.environ | {"SOURCE_DATE_EPOCH": _EPOCH}, check=True)


if __name__ == "__main__":
    main()

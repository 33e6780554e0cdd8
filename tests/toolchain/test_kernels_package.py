"""The wheel of compiled kernels: made as ``make kernels`` makes it, then used by a process with an empty cache."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from bitnet_numba.backends.cpu.simd import cpu
from tests.subprocesses import ROOT, run_python

ISA = "avx2"
STORY = ", there was a little girl named Lily. She loved to\n"


def build(folder: Path) -> Path:
    """Make the wheel for one instruction set and the embedded model, in a copy of what it is made from."""
    done = run_python("-m", "kernels_package.build", "--isas", ISA, "--models", "demo", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
@pytest.mark.skipif(ISA not in cpu.available_isas(), reason=f"this CPU has no {ISA}")
def test_a_start_with_the_wheel_compiles_nothing(tmp_path: Path) -> None:
    wheel = build(tmp_path / "first")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name == f"bitnet_numba_kernels-{version('bitnet-numba')}-{python}-none-manylinux2014_x86_64.whl"
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "site")
        [folder] = json.loads(files.read("bitnet_numba_kernels/kernels.json"))["folders"]
    assert folder.startswith(f"{ISA}-")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT), str(ROOT / "cli")])
    done = subprocess.run(
        [sys.executable, "-m", "bitnet_numba", "run", "-m", "demo", "-n", "12", "Once upon a time"],
        env=os.environ | {"PYTHONPATH": path, "BITNET_ISA": ISA, "BITNET_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, STORY, "")
    assert not list((tmp_path / "cache").rglob("*.nbc"))
    assert build(tmp_path / "second").read_bytes() == wheel.read_bytes()

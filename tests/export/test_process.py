"""Exports in processes of their own: the same bytes everywhere, and nothing half-written after a kill."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitnet_numba.export.model import ExportRequest, export_model
from bitnet_numba.files import UNFINISHED
from tests.subprocesses import ROOT, run_python
from tests.tiny import toy_checkpoint

ENVIRONMENTS: list[dict[str, Any]] = [
    {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "BITNET_NUM_THREADS": "1"},
    {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "3"},
    {"LC_ALL": "de_DE.UTF-8", "TZ": "America/St_Johns", "PYTHONHASHSEED": "0", "PYTHONUTF8": "0"},
]
# Stops in the course of the writing: after so many reports, or before the second or third file.
PAUSED = """
import sys, time
from pathlib import Path
from typing import Any
from bitnet_numba.export import model
from bitnet_numba.export.model import ExportRequest, export_model

def pause():
    print("here", flush=True)
    time.sleep(60)

def report(progress):
    if sys.argv[3] == "tensors" and progress.tensor == "blk.1.attn_q.weight":
        pause()

atomic_write = model.atomic_write
def write(path):
    if path.name.endswith(sys.argv[3]):
        pause()
    return atomic_write(path)

model.atomic_write = write
export_model(ExportRequest(Path(sys.argv[1]), Path(sys.argv[2]), "i2_s"), report)
"""


@pytest.mark.parametrize("kind", ["f16", "i2_s"])
def test_locale_time_zone_hash_seed_and_threads_change_no_byte(kind: str, tmp_path: Path) -> None:
    digests = set()
    for number, environment in enumerate(ENVIRONMENTS):
        source = toy_checkpoint().write(tmp_path / f"elsewhere-{number}")  # nor does the folder's name
        out = tmp_path / f"out-{number}"
        done = run_python("-m", "bitnet_numba", "export", str(source), "-o", str(out), "--type", kind, **environment)
        assert done.returncode == 0, done.stderr
        digests.add((out / f"clean-{kind}.gguf").read_bytes())
    assert len(digests) == 1


@pytest.mark.parametrize("moment", ["tensors", ".fingerprint", ".meta.json"])
def test_a_kill_at_any_moment_leaves_files_that_agree(moment: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    older = export_model(ExportRequest(toy_checkpoint(seed=1).write(tmp_path / "older"), out, "i2_s"))
    older_bytes = older.gguf.read_bytes()
    newer = toy_checkpoint(seed=2).write(tmp_path / "newer")
    kill_at(moment, newer, out)
    found = older.gguf.read_bytes()
    assert (found == older_bytes) is (moment == "tensors")
    fingerprint = f"sha256-{hashlib.sha256(found).hexdigest()}"
    assert older.fingerprint_file.exists() is (moment != ".fingerprint")
    assert older.meta_file.exists() is (moment == "tensors")
    if older.fingerprint_file.exists():
        assert older.fingerprint_file.read_text().strip() == fingerprint
    if older.meta_file.exists():
        assert json.loads(older.meta_file.read_text())["fingerprint"] == fingerprint
    again = export_model(ExportRequest(newer, out, "i2_s"))
    assert sorted(out.iterdir()) == sorted([again.gguf, again.fingerprint_file, again.meta_file])


def test_a_kill_of_the_first_export_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    kill_at("tensors", toy_checkpoint().write(tmp_path / "toy"), out)
    assert all(path.name.endswith(UNFINISHED) for path in out.iterdir())


def test_a_full_disk_ends_with_one_line_and_leaves_the_older_files(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    out = tmp_path / "out"
    older = export_model(ExportRequest(toy_checkpoint(seed=1).write(tmp_path / "older"), out, "f16"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    program = (
        "import resource, sys\nfrom bitnet_numba_cli.main import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\ncli.main(sys.argv[1:])"
    )
    newer = toy_checkpoint(seed=2).write(tmp_path / "newer")
    done = run_python("-c", program, "export", str(newer), "-o", str(out))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {older.gguf}: no room for it (File too large); free space or name another disk\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def kill_at(moment: str, source: Path, out: Path) -> None:
    """Start an export, and kill it at a moment of its course."""
    arguments = [sys.executable, "-c", PAUSED, str(source), str(out), moment]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)


def test_numba_is_not_imported(tmp_path: Path) -> None:
    source = toy_checkpoint().write(tmp_path / "toy")
    program = (
        "import sys\nfrom bitnet_numba_cli.main import cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'numba', 'llvmlite'} & sys.modules.keys()"
    )
    exported = run_python("-c", program, "export", str(source), "-o", str(tmp_path / "out"))
    assert exported.returncode == 0, exported.stderr
    arguments = ["quantize", str(tmp_path / "out" / "clean-f16.gguf"), "-o", str(tmp_path / "q.gguf"), "--type", "i2_s"]
    assert run_python("-c", program, *arguments).returncode == 0

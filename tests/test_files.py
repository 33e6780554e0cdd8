"""Writing whole files or nothing: links, full disks, and what killed processes leave."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_numba.errors import BitNetError, ResourceError
from bitnet_numba.files import UNFINISHED, atomic_write
from tests.subprocesses import ROOT, run_python

HOLD = """
import sys, time
from pathlib import Path
from bitnet_numba.files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("open", flush=True)
    time.sleep(60)
"""


def start_writer(path: Path) -> "subprocess.Popen[str]":
    """Start a process that holds a file half-written."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(UNFINISHED)]


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_the_complete_file_is_seen_before_it_appears_and_can_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"older")
    seen: list[bytes] = []

    def refuse(temporary: Path) -> None:
        seen.append(temporary.read_bytes())
        raise BitNetError("no")

    with pytest.raises(BitNetError, match="no"), atomic_write(path, refuse) as file:
        file.write(b"newer")
    assert seen == [b"newer"]
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_error_with_a_remedy(number: int, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="free space"), atomic_write(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


def test_a_file_beyond_the_limit_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from bitnet_numba.files import atomic_write;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));\n"
        "with atomic_write(Path(sys.argv[1])) as file: file.write(bytes(5000))"
    )
    done = run_python("-c", program, str(tmp_path / "file"))
    assert "ResourceError" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"older")
    kill(start_writer(path))
    assert path.read_bytes() == b"older"
    assert len(unfinished(tmp_path)) == 1
    with atomic_write(path) as file:
        file.write(b"newer")
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_living_writer_holds_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    process = start_writer(path)
    try:
        held = unfinished(tmp_path)
        with atomic_write(path) as file:
            file.write(b"whole")
        assert unfinished(tmp_path) == held != []
    finally:
        kill(process)


def test_the_leftovers_of_other_files_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f".file.gguf.abc{UNFINISHED}x"
    other.write_bytes(b"mine")
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
    assert other.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="no folder is closed to root")
def test_a_folder_that_takes_no_files_is_said_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BitNetError, match="takes no files"), atomic_write(tmp_path / "file"):
        pass
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("folder", "name a plain file"), ("link", "name a plain file"), ("missing/file", "no such directory")],
)
def test_a_target_that_cannot_be_written_is_refused_at_once(name: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(BitNetError, match=problem), atomic_write(tmp_path / name):
        raise AssertionError("the block ran")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]

"""Named pipes, devices, folders and impossible names in the place of files: one line, at once, and nothing replaced."""

import os
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import bitnet_numba
from bitnet_numba.demo import demo_model_path
from bitnet_numba.errors import BitNetError
from bitnet_numba.files import MAX_NAME_BYTES, atomic_write, check_target, exists, open_regular
from bitnet_numba_cli.main import cli
from tests.cli.conftest import Invoke
from tests.subprocesses import run_python
from tests.tiny import toy_checkpoint


@pytest.fixture(name="invoke")
def _invoke() -> Invoke:
    """Give a function that runs a command line, as a process would end."""
    return lambda *arguments: CliRunner().invoke(cli, arguments)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD: dict[str, Callable[[Path], None]] = {"pipe": pipe, "device": device, "folder": Path.mkdir}


@pytest.mark.parametrize("kind", ODD)
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    ODD[kind](tmp_path / "odd")
    with pytest.raises(BitNetError, match=r"odd: is not a regular file|cannot be read"):
        open_regular(tmp_path / "odd")
    with pytest.raises(BitNetError, match="none: no such file"):
        open_regular(tmp_path / "none")


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"])
def test_a_checkpoint_with_an_odd_file_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    directory = toy_checkpoint().write(tmp_path / "toy")
    (directory / name).unlink(missing_ok=True)
    ODD[kind](directory / name)
    with pytest.raises(BitNetError):
        bitnet_numba.load(directory)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_the_command_line_refuses_odd_files(kind: str, tmp_path: Path, invoke: Invoke) -> None:
    odd = tmp_path / "odd"
    ODD[kind](odd)
    for arguments in (
        ("run", "-m", str(odd), "x"),
        ("run", "--file", str(odd)),
        ("run", "--chat", "--chat-template", str(odd), "x"),
        ("inspect", str(odd)),
        ("policy", "check", str(odd)),
        ("receipt", "verify", str(odd)),
        ("quantize", str(odd), "-o", str(tmp_path / "out.gguf"), "--type", "i2_s"),
    ):
        done = invoke(*arguments)
        assert done.exit_code in (1, 2), arguments
        assert done.stderr.count("\n") == 1, (arguments, done.stderr)


@pytest.mark.parametrize("kind", ODD)
def test_nothing_odd_is_replaced(kind: str, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    ODD[kind](odd)
    before = os.lstat(odd)
    with pytest.raises(BitNetError, match="name a plain file"):
        check_target(odd)
    assert stat.S_IFMT(os.lstat(odd).st_mode) == stat.S_IFMT(before.st_mode)


def test_names_that_no_file_can_have(tmp_path: Path, invoke: Invoke) -> None:
    long = "x" * 300
    with pytest.raises(BitNetError, match="File name too long; check the path"):
        exists(tmp_path / long)
    with pytest.raises(BitNetError, match="null"):
        exists(Path("a\0b"))
    with pytest.raises(BitNetError, match=f"more than {MAX_NAME_BYTES} bytes"):
        check_target(tmp_path / ("x" * (MAX_NAME_BYTES + 1)))
    check_target(tmp_path / ("x" * MAX_NAME_BYTES))
    for arguments in (("run", "-m", long, "x"), ("inspect", long), ("run", "x", "--receipt", str(tmp_path / long))):
        done = invoke(*arguments)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_nobody_may_read_is_one_line(tmp_path: Path, invoke: Invoke) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    done = invoke("run", "-m", str(closed / "model.gguf"), "x")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)


@pytest.mark.slow
def test_little_memory_is_one_line(tmp_path: Path) -> None:
    """At each limit of address space, a run ends with its text, or with one line."""
    model = shutil.copy(demo_model_path(), tmp_path / "model.gguf")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2);"
        "from bitnet_numba_cli.main import main; sys.argv = ['bitnet-numba', 'run', '-n', '2', '-m', sys.argv[2], 'x'];"
        "main()"
    )
    assert resource.RLIMIT_AS
    for megabytes in (1500, 2500, 6000):
        done = run_python("-c", program, str(megabytes << 20), str(model))
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr, done.stderr


# ---- what is written -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_outputs_follow_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "out") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


def test_an_odd_leftover_does_no_harm(tmp_path: Path) -> None:
    pipe(tmp_path / ".out.12345678.part")
    with atomic_write(tmp_path / "out") as file:
        file.write(b"x")
    assert (tmp_path / "out").read_bytes() == b"x"


def test_a_file_that_grows_too_large_leaves_nothing(tmp_path: Path) -> None:
    """As on a full disk; in a process of its own, which the limit is for."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20,) * 2);"
        "from bitnet_numba_cli.main import main;"
        "sys.argv = ['x', 'export', 'bench/demo_model/checkpoint', '-o', sys.argv[1], '--type', 'i2_s']; main()"
    )
    done = run_python("-c", program, str(tmp_path / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "no room for it" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["../../../etc", "main", "é" * 40, "f" * 39, "f" * 41, ""])
def test_a_ref_of_the_hub_s_cache_is_a_commit(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(text, encoding="utf-8")
    with pytest.raises(BitNetError, match=r"refs/main: holds .*, not the commit of a revision"):
        bitnet_numba.load("org/name")

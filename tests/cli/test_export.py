"""``export`` and ``quantize`` as commands: what they print, and how they end."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import Progress
from bitnet_numba_cli import _progress, _ui
from tests.cli.conftest import Invoke
from tests.tiny import toy_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return toy_checkpoint().write(tmp_path / "toy")


def exported(invoke: Invoke, checkpoint: Path, kind: str) -> Path:
    out = checkpoint.parent / "out"
    assert invoke("export", str(checkpoint), "-o", str(out), "--type", kind).exit_code == 0
    return out / f"clean-{kind}.gguf"


def test_people_get_the_facts(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    result = invoke("export", str(checkpoint), "-o", str(tmp_path / "out"), "--type", "i2_s")
    assert result.exit_code == 0
    assert result.stderr == ""
    facts = dict(line.strip().split("  ", 1) for line in result.stdout.splitlines() if "  " in line)
    assert facts["file"].strip() == str(tmp_path / "out" / "clean-i2_s.gguf")
    assert facts["tensors"].strip() == "24, 14 of them ternary"
    fingerprint = (tmp_path / "out" / "clean-i2_s.fingerprint").read_text().strip()
    assert facts["fingerprint"].strip() == fingerprint


def test_programs_get_the_record(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    options = ("--hf-repo", "some/toy", "--revision", "main", "--json")
    result = invoke("export", str(checkpoint), "-o", str(tmp_path), *options)
    assert json.loads(result.stdout) == json.loads((tmp_path / "clean-f16.meta.json").read_text())
    assert json.loads(result.stdout)["source_revision"] == "main"


def test_notes_go_to_stderr_and_strict_mode_refuses_them(invoke: Invoke, tmp_path: Path) -> None:
    toy = toy_checkpoint()
    toy.tensors["model.layers.0.self_attn.q_proj.weight"][1][3, 5] = 0x3401  # between float16's steps
    arguments = ("export", str(toy.write(tmp_path / "toy")), "-o", str(tmp_path / "out"), "--masters")
    assert "rounded" in invoke(*arguments).stderr
    strict = invoke(*arguments, "--strict")
    assert (strict.exit_code, strict.stdout) == (1, "")
    assert "rounded" in strict.stderr


def test_a_bad_checkpoint_ends_with_status_1_and_one_line(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    command = [sys.executable, "-m", "bitnet_numba", "export", str(checkpoint), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sigterm_takes_back_what_is_written(checkpoint: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom bitnet_numba.export import tensors\nfrom bitnet_numba_cli.main import cli\n"
        "plain = tensors.ternary_from_floats\n"
        "def end(*arguments, **more):\n    os.kill(os.getpid(), signal.SIGTERM)\n    return plain(*arguments, **more)\n"
        "tensors.ternary_from_floats = end\ncli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "export", str(checkpoint), "-o", str(tmp_path / "out"), "--type", "i2_s"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert not (tmp_path / "out").exists()


def test_quantize_prints_a_table(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    source, out = exported(invoke, checkpoint, "bf16"), tmp_path / "q.gguf"
    result = invoke("quantize", str(source), "-o", str(out), "--type", "i2_s", "--exclude", "blk.1.*")
    header, *rows, total = result.stdout.splitlines()
    assert header.split() == ["tensor", "from", "to", "bytes", "scale", "against", "the", "source"]
    assert rows[0].split()[:4] == ["blk.0.attn_q.weight", "BF16", "I2_S", "4,128"]
    assert len(rows) == 7
    assert all(row.endswith(" % off") for row in rows)
    assert total.endswith("7 tensors converted, 17 copied")


def test_quantize_there_and_back_is_exact(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    source = exported(invoke, checkpoint, "i2_s")
    result = invoke("quantize", str(source), "-o", str(tmp_path / "f16.gguf"), "--dequantize", "--json")
    tensors = json.loads(result.stdout)["tensors"]
    assert {tensor["stored_after"] for tensor in tensors} == {"F16"}
    assert all(tensor["relative_error"] < 2**-11 for tensor in tensors)
    with open_gguf(tmp_path / "f16.gguf") as file:
        assert file.tensors["blk.0.ffn_up.weight"].type is TensorType.F16


@pytest.mark.parametrize("choice", [[], ["--type", "i2_s", "--dequantize"]])
def test_quantize_needs_one_of_two_options(choice: list[str], invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("quantize", "in.gguf", "-o", str(tmp_path / "out.gguf"), *choice)
    assert result.exit_code == 2
    assert "either --type or --dequantize" in result.stderr


def test_progress_is_told_to_who_waits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Progress("blk.0.attn_q.weight", 10, 40), Progress("blk.1.attn_q.weight", 30, 40)
    with _progress.writing("Writing f16") as report:
        report(first)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(_progress, "LOG_INTERVAL", 0.0)
    with _progress.writing("Writing f16") as report:
        report(first)
        report(second)
    assert capsys.readouterr() == (
        "",
        "Writing f16: 25 %, 0 s left, blk.0.attn_q.weight\nWriting f16: 75 %, 0 s left, blk.1.attn_q.weight\n",
    )


def test_progress_is_one_line_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_ui, "stderr_is_terminal", lambda: True)
    monkeypatch.setattr(_progress, "TERMINAL_INTERVAL", 0.0)
    with _progress.writing("Writing f16") as report:
        report(Progress("output_norm.weight", 0, 40))
    shown = "Writing f16: 0 %, output_norm.weight"
    assert capsys.readouterr() == ("", f"\r{shown}\r{' ' * len(shown)}\r")


@pytest.mark.parametrize(
    ("done", "seconds", "line"),
    [
        (1, 60.0, "Writing i2_s: 1 %, 1 h 39 min left, token_embd.weight"),
        (50, 90.0, "Writing i2_s: 50 %, 1 min 30 s left, token_embd.weight"),
        (100, 3.0, "Writing i2_s: 100 %, 0 s left, token_embd.weight"),
    ],
)
def test_writing_in_words(done: int, seconds: float, line: str) -> None:
    assert _progress.describe_writing("Writing i2_s", Progress("token_embd.weight", done, 100), seconds) == line

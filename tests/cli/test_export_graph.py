"""``export`` to other runtimes: the graph is compared with the engine, and what is not theirs is refused."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.subprocesses import run_python


def test_onnx_is_written_and_compared(invoke: Invoke, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = invoke("export", "demo", "-o", str(tmp_path / "out"), "--format", "onnx", "--max-context", "16", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["path"] == str(tmp_path / "out" / "clean.onnx")
    assert facts["size"] == (tmp_path / "out" / "clean.onnx").stat().st_size
    assert facts["correlation"] > 0.9999
    assert facts["same_choices"] == facts["n_tokens"]
    assert 0 <= facts["first_difference"] <= facts["largest_difference"] < 0.1


def test_torch_is_written_and_compared(invoke: Invoke, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = invoke("export", "demo", "-o", str(tmp_path), "--format", "torch", "--max-context", "16")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "clean.pt2").exists()
    assert "same choices" in result.stdout


@pytest.mark.parametrize(("form", "package", "extra"), [("onnx", "onnx", "onnx"), ("torchscript", "torch", "torch")])
def test_a_missing_extra_is_named(form: str, package: str, extra: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\nfrom bitnet_numba_cli.main import cli\ncli.main(sys.argv[1:])"
    )
    done = run_python("-c", program, "export", "demo", "-o", str(tmp_path / "out"), "--format", form, PYTHONPATH="cli")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"pip install 'bitnet-numba[{extra}]'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "onnx", "--type", "i2_s"), "--type is about GGUF files"),
        (("--format", "torch", "--strict"), "--strict is about GGUF files"),
        (("--max-context", "5"), "--max-context is about graphs"),
    ],
)
def test_options_of_the_other_kind_are_refused(
    options: tuple[str, ...], said: str, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke("export", "demo", "-o", str(tmp_path / "out"), *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "out").exists()

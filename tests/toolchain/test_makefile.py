"""The make targets: each is explained, and those on models do what they say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_numba.demo import demo_model_path
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TensorType
from tests.subprocesses import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MODEL_TARGETS = (
    *("model-export", "model-quantize-i2s", "model-inspect-ln"),
    *("model-validate", "model-clean", "model-check", "model-probe", "model-baseline"),
)


def make(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run make with this Python, and without what the user's environment says about models."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"}
    return subprocess.run(
        ["make", f"PYTHON={sys.executable}", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_target_has_a_comment_with_an_example() -> None:
    targets = re.findall(r"^([a-z0-9-]+):.*$", MAKEFILE, re.MULTILINE)
    explained = re.findall(r"^([a-z0-9-]+):.*## .+", MAKEFILE, re.MULTILINE)
    assert targets == explained
    for target in set(targets) - {"help"}:
        [line] = re.findall(rf"^{target}:.*## (.+)$", MAKEFILE, re.MULTILINE)
        assert f"make {target}" in line


def test_help_lists_the_targets() -> None:
    listed = [line.split()[0] for line in make("help").stdout.splitlines()]
    assert set(MODEL_TARGETS) <= set(listed)


@pytest.mark.parametrize("target", MODEL_TARGETS)
def test_paths_with_spaces_stay_whole(target: str) -> None:
    done = make("-n", target, "MODEL_DIR=a b", "OUT=c d", "TOKENIZER=e f")
    assert done.returncode == 0
    words = shlex.split(done.stdout)
    assert any(" " in word for word in words)
    assert not set("abcdef") & set(words)


def test_all_of_them_on_the_embedded_model_s_checkpoint(tmp_path: Path) -> None:
    done = make("model-check", f"OUT={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {
        *("clean-f16.gguf", "clean-f16.fingerprint", "clean-f16.meta.json", "clean-i2_s.gguf"),
    }
    with open_gguf(tmp_path / "clean-i2_s.gguf") as file:
        kinds = {tensor.type for tensor in file.tensors.values()}
    assert TensorType.I2_S in kinds


def test_a_file_is_probed_and_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    shutil.copy(demo_model_path(), folder / "a.gguf")
    arguments = f"GGUF={folder / 'a.gguf'}", f"OUT={folder}"
    probed = make("-s", "model-probe", *arguments)
    assert probed.returncode == 0, probed.stderr
    assert "Paris. France is a country" in probed.stdout
    recorded = make("model-baseline", *arguments)
    assert recorded.returncode == 0, recorded.stderr
    assert (folder / "a.baseline.json").is_file()


def test_what_is_committed_holds() -> None:
    done = make("baselines")
    assert done.returncode == 0, done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if re.match("[A-Z]+  ", line)] == [
        *("PASS", "PASS", "PASS", "CONFIRMED"),  # the baseline, two receipts, a replay
    ]


def test_a_checkpoint_that_is_not_there_stops_everything(tmp_path: Path) -> None:
    done = make("model-check", "MODEL_DIR=/no/such/place", f"OUT={tmp_path}")
    assert done.returncode == 2
    assert "error: /no/such/place" in done.stderr
    assert "validate" not in done.stdout

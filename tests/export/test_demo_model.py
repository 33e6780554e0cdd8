"""The embedded model: the file in the package is what the checkpoint in the repository makes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.demo_model import make
from bitnet_numba.demo import demo_model_path
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.model.families import GGUF_NAMES, HUGGING_FACE_NAMES
from tests.tiny import absmean
from tests.tiny_files import i2s_weights, widened


def checkpoint_tensors() -> dict[str, npt.NDArray[np.float32]]:
    """Read the checkpoint without the project's own reader."""
    contents = (make.CHECKPOINT / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(contents[:8], "little")
    header: dict[str, Any] = json.loads(contents[8:start])
    del header["__metadata__"]
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        bits = np.frombuffer(contents[start + begin : start + end], "<u2")
        tensors[name] = widened(bits).reshape(info["shape"])
    return tensors


def test_every_tensor_is_the_checkpoints() -> None:
    tensors = checkpoint_tensors()
    kinds = dict.fromkeys(TensorType, 0)
    with open_gguf(demo_model_path()) as file:
        assert len(file.tensors) == len(tensors) == 1 + 6 * 11 + 1
        for name, values in tensors.items():
            role = HUGGING_FACE_NAMES.role(name)
            assert role is not None
            info = file.tensors[GGUF_NAMES.name(role)]
            data = file.data(info.name)
            kinds[info.type] += 1
            if info.type is TensorType.I2_S:
                weights, scale = i2s_weights(data, values.shape)
                expected, expected_scale = absmean(values)
                assert scale == expected_scale
                np.testing.assert_array_equal(weights, expected)
            else:
                stored = data.view("<f4") if info.type is TensorType.F32 else widened(data.view("<u2"))
                np.testing.assert_array_equal(stored.reshape(values.shape), values)
    assert (kinds[TensorType.BF16], kinds[TensorType.F32], kinds[TensorType.I2_S]) == (1, 25, 42)


def test_the_committed_file_is_made_again_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    assert make.main(["--check"]) == 0
    assert demo_model_path().name in capsys.readouterr().out


def test_a_changed_file_fails_the_check_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = bytearray(demo_model_path().read_bytes())
    changed[-1] ^= 1
    path = tmp_path / "changed.gguf"
    path.write_bytes(changed)
    assert make.main(["--check", "--out", str(path)]) == 1
    assert "is not what" in capsys.readouterr().err
    assert path.read_bytes() == changed


def test_a_missing_file_fails_the_check_and_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "missing.gguf"
    assert make.main(["--check", "--out", str(path)]) == 1
    assert "no such file" in capsys.readouterr().err
    assert not path.exists()


def test_made_elsewhere_it_has_the_same_bytes(tmp_path: Path) -> None:
    assert make.main(["--out", str(tmp_path / "made.gguf")]) == 0
    assert (tmp_path / "made.gguf").read_bytes() == demo_model_path().read_bytes()

"""The measurement of an export, on a checkpoint of a toy's shape."""

from pathlib import Path

import pytest

from bench import checkpoint, export
from bench.make_model import SHAPES, Shape
from bitnet_numba.formats.safetensors import open_checkpoint


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SHAPES, "toy", Shape("bitnet-b1.58", 2, 128, 256, 2, 1, 300, 64))
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 200_000)
    checkpoint.write_checkpoint("toy", tmp_path / "toy")
    return tmp_path / "toy"


def test_the_checkpoint_has_shards_and_a_large_embedding_in_float32(toy: Path) -> None:
    with open_checkpoint(toy) as opened:
        assert len(opened.files) > 1
        assert opened.tensors["model.embed_tokens.weight"].dtype == "F32"
        assert opened.tensors["model.layers.1.mlp.up_proj.weight"].dtype == "BF16"


def test_an_export_is_measured_and_leaves_nothing(toy: Path) -> None:
    cost = export.export(toy, "i2_s")
    assert cost.seconds > 0
    assert cost.peak_mb > 10
    assert cost.output_bytes > 300 * 128 * 4 + 2 * (3 * 128 * 256 + 2 * 128 * 128 + 2 * 64 * 128) // 4
    assert export.copy(toy, cost.output_bytes) > 0
    assert [path.name for path in toy.parent.iterdir()] == ["toy"]

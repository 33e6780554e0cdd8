"""Models for other runtimes: what the exported graphs compute, and what the check before keeping one refuses."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.export import portable
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.model.config import RopeScaling
from bitnet_numba.model.open import open_source
from bitnet_numba.model.source import ModelSource
from tests.tiny import ARCHITECTURES, ToyModel, toy_model

Run = Callable[[ModelSource, Path, npt.NDArray[np.int64]], npt.NDArray[np.float32]]

LLAMA3 = RopeScaling(8.0, (1.0, 4.0, 16))
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu2, sub-norms, 3 x 2 heads": ("bitnet-b1.58", {"hidden_size": 192, "n_heads": 6, "n_kv_heads": 3}),
    "silu, sub-norms, one head a group": ("bitnet", {"hidden_size": 128, "n_heads": 2, "n_kv_heads": 2}),
    "adjacent pairs, linear scaling": ("llama", {"rope_scaling": RopeScaling(4.0), "head_type": TensorType.F16}),
    "adjacent pairs, llama3 scaling": ("llama", {"rope_scaling": LLAMA3, "hidden_size": 320, "n_heads": 4}),
    "rows of no whole block": (
        "bitnet-b1.58",
        {"hidden_size": 160, "n_heads": 5, "head_dim": 20, "intermediate_size": 540},
    ),
    "bf16 embedding, f32 head": ("bitnet", {"embedding_type": TensorType.BF16, "head_type": TensorType.F32}),
    "q8_0 embedding": ("bitnet-b1.58", {"embedding_type": TensorType.Q8_0}),
    **{architecture: (architecture, {}) for architecture in ARCHITECTURES},
}


def run_onnx(source: ModelSource, folder: Path, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    from bitnet_numba.export.onnx import graph, write

    path = folder / "toy.onnx"
    onnx.save_model(graph.build_model(source, 64), path)
    return write.run_onnx(path, ids)


def run_torch(source: ModelSource, folder: Path, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    from bitnet_numba.export.torch import Model

    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = Model(source, 64)(torch.from_numpy(ids)).numpy()
    return logits


def agrees(source: ModelSource, toy: ToyModel, folder: Path, run: Run) -> None:
    """Hold logits to the plain forward pass; a rounding to int8 that falls otherwise moves later positions only."""
    tokens = toy.tokens(24)
    logits = run(source, folder, tokens.astype(np.int64))
    expected = toy.logits(tokens, "f32")
    assert np.abs(logits[:3] - expected[:3]).max() <= 1e-5 * expected.std()
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] >= 0.9995


@pytest.mark.parametrize("run", [run_onnx, run_torch])
@pytest.mark.parametrize("name", MODELS)
def test_every_family_and_storage(name: str, run: Run, tmp_path: Path) -> None:
    architecture, shape = MODELS[name]
    toy = toy_model(architecture, seed=5, **shape)
    source = open_source(toy.gguf().write(tmp_path / "toy.gguf"))
    agrees(source, toy, tmp_path, run)
    source.close()


@pytest.mark.parametrize("run", [run_onnx, run_torch])
def test_a_hugging_face_directory(run: Run, tmp_path: Path) -> None:
    toy = toy_model("llama", seed=6, head_type=TensorType.F16)
    source = open_source(toy.checkpoint("bitlinear").write(tmp_path / "toy"))
    agrees(source, toy, tmp_path, run)
    source.close()


# ---- writing, and the check ------------------------------------------------------------------------------------------
def exporter(name: str) -> tuple[ModuleType, Callable[..., portable.Exported], Callable[..., npt.NDArray[np.float32]]]:
    """Return the module of a format, what writes it, and what runs it."""
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
        from bitnet_numba.export.onnx import write

        return write, write.export_onnx, write.run_onnx
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    from bitnet_numba.export import torch

    return torch, torch.export_torch, torch.run_torch


FORMATS = pytest.mark.parametrize("name", ["onnx", "torch"])


@FORMATS
def test_the_embedded_model_is_the_engine_s(name: str, tmp_path: Path) -> None:
    _, export, run = exporter(name)
    source = open_source("demo")
    report = export(source, tmp_path / "demo.bin", max_context=32)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.bin"]
    assert report.path == tmp_path / "demo.bin"
    assert report.size == report.path.stat().st_size
    assert report.runtime.startswith(name)
    assert report.first_difference <= 1e-4
    assert report.correlation >= 0.9995
    assert report.same_choices == report.n_tokens == len(source.tokenizer().encode(portable.PROMPT))
    ids = np.arange(32)
    assert run(report.path, ids).shape == (32, source.config.vocab_size)
    np.testing.assert_allclose(run(report.path, ids[:7])[:3], run(report.path, ids)[:3], atol=1e-4)
    source.close()


@FORMATS
def test_another_graph_is_not_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, export, _ = exporter(name)
    home = "bitnet_numba.export.onnx.graph" if name == "onnx" else module.__name__
    monkeypatch.setattr(f"{home}.rotations", lambda source, n: portable.rotations(source, n)[::-1])
    with pytest.raises(BitNetError, match=r"differ by up to .* the file was not kept"):
        export(open_source("demo"), tmp_path / "demo.bin", max_context=32)
    assert list(tmp_path.iterdir()) == []


@FORMATS
def test_what_cannot_be_written_or_checked(name: str, tmp_path: Path) -> None:
    _, export, _ = exporter(name)
    source = open_source("demo")
    with pytest.raises(BitNetError, match="no such directory; create it first"):
        export(source, tmp_path / "none" / "demo.bin")
    for context in (0, 513):
        with pytest.raises(ParameterError, match=f"max_context is {context}, the model holds 1 to 512"):
            export(source, tmp_path / "demo.bin", max_context=context)
    assert list(tmp_path.iterdir()) == []
    source.close()


def test_torchscript_on_request(tmp_path: Path) -> None:
    module, export, _ = exporter("torch")
    report = export(open_source("demo"), tmp_path / "demo.pt", max_context=32, torchscript=True)
    assert report.first_difference <= 1e-4
    assert report.same_choices == report.n_tokens
    assert module.run_script(report.path, np.arange(32)).shape == (32, 4096)


def test_weights_of_gigabytes_go_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, export, run = exporter("onnx")
    monkeypatch.setattr(module, "MAX_SINGLE_FILE", 1_000_000)
    report = export(open_source("demo"), tmp_path / "demo.onnx", max_context=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.onnx", "demo.onnx.data"]
    assert report.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (tmp_path / "demo.onnx").stat().st_size < 200_000
    assert np.isfinite(run(tmp_path / "demo.onnx", np.arange(8))).all()


def test_ternary_layers_take_two_bits_and_norms_stay_float(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    from bitnet_numba.export.onnx.graph import build_model

    source = open_source("demo")
    model = build_model(source, 32)
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 7 * source.config.n_layers
    assert all({each.name: each.i for each in node.attribute}["bits"] == 2 for node in products)
    [standard] = [opset.version for opset in model.opset_import if opset.domain == ""]
    assert standard <= 26
    norms = [tensor for tensor in model.graph.initializer if "norm" in tensor.name]
    assert len(norms) == 4 * source.config.n_layers + 1
    assert all(tensor.data_type == onnx.TensorProto.FLOAT for tensor in norms)
    source.close()


def test_logits_that_are_not_numbers_are_refused() -> None:
    ours = np.ones((2, 3), np.float32)
    for theirs in (np.full((2, 3), np.nan, np.float32), np.ones((2, 4), np.float32)):
        with pytest.raises(BitNetError, match=r"m\.onnx: x 1 gives \(2, \d\) logits, not all finite"):
            portable.compared(Path("m.onnx"), 1, "x 1", ours, theirs)

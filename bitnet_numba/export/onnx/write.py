"""Writer of .onnx files, each of which is run in onnxruntime and compared with the engine."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from bitnet_numba.export.onnx.graph import INPUT, OUTPUT, build_model
from bitnet_numba.export.portable import PROMPT, Exported, Floats, TokenIds, export_compared
from bitnet_numba.model.source import ModelSource

MAX_SINGLE_FILE = 1_900_000_000  # bytes; a protobuf message ends at 2 GiB
ERRORS_ONLY = 3  # onnxruntime's log level


def export_onnx(
    source: ModelSource, out_path: Path, *, max_context: int | None = None, prompt: str = PROMPT
) -> Exported:
    """Write a model as ONNX, run it in onnxruntime, and keep the file only if its logits are the engine's.

    The graph computes ``logits``, float32[n_tokens, vocab_size], of ``token_ids``, int64[n_tokens], without a KV cache.
    Weights of more than 1.9 GB go to a second file, ``<name>.data``. ``max_context`` is the largest number of tokens of
    one run, by default the context length of the training; ``prompt`` is the text of the comparison.
    """

    def save(context: int, ids: TokenIds, path: Path) -> None:
        _save(build_model(source, context), path)

    runtime = f"onnxruntime {onnxruntime.__version__}"
    return export_compared(source, out_path, max_context, prompt, save, run_onnx, runtime)


def run_onnx(path: Path, ids: TokenIds) -> Floats:
    """Run an exported model over token ids int64[n_tokens]; return its logits, float32[n_tokens, vocab_size]."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [logits] = session.run([OUTPUT], {INPUT: ids})
    return np.asarray(logits, np.float32)


def _save(model: onnx.ModelProto, path: Path) -> None:
    n_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save_model(
        model,
        path,
        save_as_external_data=n_bytes > MAX_SINGLE_FILE,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
    )
    onnx.checker.check_model(path)

"""The only thing that is called accuracy: what quantization changes in the engine's logits for a text."""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import bitnet_numba
from bitnet_numba.errors import BitNetError
from bitnet_numba.formats.json_file import read_json
from bitnet_numba.formats.safetensors import INDEX_FILE
from bitnet_numba.smoothness.packed import COPIED, DESCRIPTION, PackedModel, ShardWriter
from bitnet_numba.smoothness.tensors import Model

MAX_TOKENS = 2048
NOTE = (
    "the engine runs linear layers as ternary weights: those of both models that are not ternary yet are quantized by"
    " absmean when they are loaded"
)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The quantized model's predictions of a text against the source's."""

    tokens: int
    mean_token_kl: float  # nats, of the source's distribution from the quantized model's
    perplexity_source: float
    perplexity_quantized: float
    perplexity_delta: float
    top1_agreement: float
    note: str = NOTE

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return asdict(self)


def read_text(path: Path) -> str:
    """Read a text file of UTF-8; BitNetError if that is impossible or it is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BitNetError(f"{path}: cannot be read as UTF-8 text; name a text file") from error
    if not text.strip():
        raise BitNetError(f"{path}: holds no text; name another file")
    return text


def measure_accuracy(source: Model, packed: Path, text: str) -> Accuracy:
    """Run source and dequantized model on a text of at most 2048 tokens; BitNetError if the engine cannot run it."""
    if not source.path.is_dir():
        raise BitNetError(f"{source.path}: --text needs the model's folder, with config.json and tokenizer.json")
    with tempfile.TemporaryDirectory(prefix="bitnet-numba-", dir=packed.parent) as folder:
        write_dequantized(source, packed, Path(folder))
        with bitnet_numba.load(source.path) as original, bitnet_numba.load(folder) as other:
            ids = original.tokenize(text)[:MAX_TOKENS]
            if len(ids) < 2:
                raise BitNetError("--text: a text of one token predicts nothing; give a longer one")
            window = original.max_context
            parts = [
                _compare(original.logits(part), other.logits(part), np.array(part[1:]))
                for part in (ids[start : start + window] for start in range(0, len(ids), window))
                if len(part) > 1
            ]
    kl, source_loss, other_loss, agreed = (np.concatenate(each) for each in zip(*parts, strict=True))
    perplexity, changed = float(np.exp(source_loss.mean())), float(np.exp(other_loss.mean()))
    return Accuracy(kl.size, float(kl.mean()), perplexity, changed, changed - perplexity, float(agreed.mean()))


def _compare(source: Floats, other: Floats, following: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return KL divergence, cross-entropies and agreement of the likeliest token, of all positions but the last."""
    p, q = (_log_softmax(each[:-1]) for each in (source, other))
    kl = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    rows = np.arange(following.size)
    return kl, -p[rows, following], -q[rows, following], p.argmax(axis=1) == q.argmax(axis=1)


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def write_dequantized(source: Model, packed: Path, folder: Path) -> None:
    """Write the source with its linear weights replaced by their dequantized values, float32."""
    model = PackedModel(packed)
    writer = ShardWriter(folder, "dequantized")
    try:
        for name in model.names:
            values = model.dequantize(name)
            writer.add(name, "F32", values.shape, values)
    finally:
        model.close()
    for kept in source.kept:
        entry = source.checkpoint.tensors[kept.name]
        writer.add(kept.name, entry.dtype, entry.shape, source.checkpoint.raw(kept.name).reshape(-1).view(np.uint8))
    writer.finish()
    for pattern in COPIED:
        for file in source.path.glob(pattern):
            if file.name not in (INDEX_FILE, DESCRIPTION):
                shutil.copyfile(file, folder / file.name)
    if source.is_packed:
        _say_unpacked(folder / "config.json")


def _say_unpacked(config: Path) -> None:
    """State in config.json that the weights are master weights now."""
    settings = read_json(config).values
    settings["quantization_config"] = {"quant_method": "bitnet", "quantization_mode": "online"}
    config.write_text(json.dumps(settings), encoding="utf-8")

"""GGUF files: header, model configuration, every tensor and the tokenizer."""

import functools
import random
import struct
import tempfile
from pathlib import Path

from bitnet_numba.errors import BitNetError
from bitnet_numba.formats.gguf_header import read_header
from bitnet_numba.formats.gguf_types import NUMBER_FORMATS, TensorType, TypedValue, ValueType
from bitnet_numba.model.gguf_source import GGUFSource
from tests.fuzz.models import SIZES, read_tensors
from tests.fuzz.target import Target
from tests.gguf_builder import Tensor, gguf_bytes
from tests.tiny import toy_model

TEXT = "The cat <|eot_id|> naïve 猫"


def read(data: bytes) -> None:
    """Do all that loading a GGUF file does before weights are packed for kernels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(data)
        source = GGUFSource(path)
        read_tensors(source)
        tokenizer = source.tokenizer()
        tokenizer.decode(tokenizer.encode(TEXT, parse_special=True))
        source.close()


@functools.cache
def seeds() -> dict[str, bytes]:
    """Return models of each family and of each way to store weights."""
    wide = SIZES | {"hidden_size": 256, "intermediate_size": 256, "n_heads": 4}
    models = {
        "I2_S": toy_model(**SIZES).gguf(),
        "3B": toy_model("bitnet", **SIZES).gguf(TensorType.F16),
        "llama": toy_model("llama", **SIZES, head_type=TensorType.Q8_0).gguf(TensorType.BF16),
        "TQ1_0": toy_model(**wide, embedding_type=TensorType.Q6_K).gguf(TensorType.TQ1_0),
        "TQ2_0": toy_model(**wide, embedding_type=TensorType.Q8_0).gguf(TensorType.TQ2_0),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        return {name: model.write(path).read_bytes() for name, model in models.items()}


# ---- changes that keep the form --------------------------------------------------------------------------------------
def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change one value or tensor of a file; begin with a seed again where its header cannot be read."""
    try:
        header = read_header(Path("model.gguf"), memoryview(data), len(data))
    except BitNetError:
        data = rng.choice(list(seeds().values()))
        header = read_header(Path("model.gguf"), memoryview(data), len(data))
    metadata: dict[str, TypedValue | bytes] = dict(header.metadata)
    tensors = {
        name: Tensor(info.shape, info.type, data[info.offset : info.offset + info.n_bytes])
        for name, info in header.tensors.items()
    }
    if metadata and (not tensors or rng.random() < 0.6):
        key = rng.choice(list(metadata))
        changed = _spoilt_value(header.metadata[key], rng)
        if changed is None:
            del metadata[key]
        else:
            metadata[key] = changed
    elif tensors:
        name = rng.choice(list(tensors))
        tensor = tensors.pop(name)
        if rng.random() < 0.9:
            tensors[rng.choice([name, name, name, _spoilt_name(name)])] = _spoilt_tensor(tensor, rng)
    return gguf_bytes(metadata, tensors, version=header.version, alignment=header.alignment)


def _spoilt_value(value: TypedValue, rng: random.Random) -> TypedValue | bytes | None:
    """Return another value, maybe of another type; None for none at all."""
    choice = rng.randrange(8)
    if choice == 0:
        return None
    if choice == 1:
        return _any_number(rng.choice(list(NUMBER_FORMATS)), rng)
    if isinstance(value.value, list):
        return TypedValue(value.type, _spoilt_items(value.value, rng))
    if value.type is ValueType.STRING:
        return TypedValue(value.type, _spoilt_text(value.value, rng))
    if value.type is ValueType.BOOL:
        return TypedValue(value.type, not value.value)
    return _any_number(value.type, rng)


def _any_number(kind: ValueType, rng: random.Random) -> bytes:
    n_bytes = struct.calcsize("<" + NUMBER_FORMATS[kind])
    small = rng.randrange(512).to_bytes(2, "little")[:n_bytes].ljust(n_bytes, b"\0")
    body = rng.choice([bytes(n_bytes), b"\xff" * n_bytes, small, rng.randbytes(n_bytes)])
    return struct.pack("<I", kind) + body


def _spoilt_items(items: list[object], rng: random.Random) -> list[object]:
    changed = list(items)
    if not changed:
        return changed
    first, second = rng.randrange(len(changed)), rng.randrange(len(changed))
    if rng.random() < 0.3:
        del changed[first:second]
    elif isinstance(changed[first], str) and rng.random() < 0.5:
        changed[first] = _spoilt_text(str(changed[first]), rng)
    else:
        changed[first] = changed[second]
    return changed


def _spoilt_text(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    texts = ["", " ", "\0", "\n", "é", "猫", "<0x41>", "llama", "gpt2", "gpt-2", "bitnet", "linear", "▁", "a" * 300]
    return rng.choice([rng.choice(texts), text[:place] + rng.choice(texts) + text[place:], text[:place]])


def _spoilt_name(name: str) -> str:
    return name.replace("0", "1") if "0" in name else f"blk.0.{name}"


def _spoilt_tensor(tensor: Tensor, rng: random.Random) -> Tensor:
    """Return a tensor of another shape, type or content."""
    shape, kind, contents = tensor.shape, tensor.type, bytearray(tensor.data)
    choice = rng.randrange(4)
    if choice == 0:
        shape = rng.choice([shape[::-1], (1, *shape)[-4:], shape[:1], (shape[0] + 1, *shape[1:])])
    elif choice == 1:
        kind = rng.choice(list(TensorType))
    elif contents:
        place = rng.randrange(len(contents))
        contents[place : place + 4] = rng.choice(
            [bytes(4), b"\xff" * 4, struct.pack("<f", float("inf")), rng.randbytes(4)]
        )[: len(contents) - place]
    return Tensor(shape, kind, bytes(contents))


TARGET = Target("gguf", seeds, read, mutate, max_bytes=1 << 18, timeout_s=10, memory_mb=1024)

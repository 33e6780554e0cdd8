"""Safetensors files: the header, every tensor as it is stored, and the model that they make."""

import functools
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

from bitnet_numba.formats.safetensors import STORED_DTYPES, open_checkpoint
from bitnet_numba.model.hf_source import HuggingFaceSource
from tests.fuzz.models import SIZES, read_tensors
from tests.fuzz.target import Target
from tests.safetensors_cases import safetensors_bytes, safetensors_file
from tests.tiny import toy_model
from tests.tiny_files import HuggingFaceModel

_LENGTH_BYTES = 8
_NUMBERS = (0, 1, 2, 3, -1, 2**31, 2**48, 2**63, 2**64 - 1, 2**64, 1.5, True, None, "8", [])


def read(data: bytes) -> None:
    """Do all that loading a checkpoint's weights does before they are packed for kernels."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "model.safetensors").write_bytes(data)
        (directory / "config.json").write_text(json.dumps(_checkpoints()["packed"].config), encoding="utf-8")
        with open_checkpoint(directory) as checkpoint:
            for name, entry in checkpoint.tensors.items():
                checkpoint.raw(name).tobytes()
                if entry.dtype in ("BF16", "F16", "F32"):
                    checkpoint.float32(name)
        source = HuggingFaceSource(directory)
        read_tensors(source)
        source.close()


@functools.cache
def _checkpoints() -> dict[str, HuggingFaceModel]:
    return {
        "packed": toy_model(**SIZES).checkpoint(),
        "masters": toy_model(**SIZES, has_masters=True).checkpoint(linear_class=None),
    }


@functools.cache
def seeds() -> dict[str, bytes]:
    """Return the same model with packed weights and with master weights."""
    return {name: safetensors_bytes(checkpoint.tensors) for name, checkpoint in _checkpoints().items()}


# ---- changes that keep the form --------------------------------------------------------------------------------------
def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change the header as an object; begin with a seed again where it cannot be read."""
    parts = _parts(data)
    if parts is None:
        parts = _parts(rng.choice(list(seeds().values())))
    assert parts is not None  # a seed is well formed
    header, contents = parts
    name = rng.choice(list(header))
    choice = rng.randrange(5)
    if choice == 0:
        del header[name]
    elif choice == 1:
        header[rng.choice([name[:-1], name + "_scale", "__metadata__", "é\n", "lm_head.weight"])] = header.pop(name)
    elif choice == 2:
        header[name] = rng.choice([None, [], "", {}, {"dtype": "F32"}, 1])
    elif isinstance(header[name], dict):
        header[name] = _spoilt_entry(header[name], rng)
    if rng.random() < 0.5:
        contents = _laid_out_again(header, contents)
    return safetensors_file(header, contents)


def _parts(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Return the header as an object and the bytes behind it, or None if there is no such object."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    try:
        header = json.loads(data[_LENGTH_BYTES:end])
    except (ValueError, RecursionError):
        return None
    return (header, data[end:]) if isinstance(header, dict) and header else None


def _spoilt_entry(entry: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    changed = dict(entry)
    key = rng.choice(["dtype", "shape", "data_offsets"])
    old = changed.get(key)
    if key == "dtype":
        changed[key] = rng.choice([*STORED_DTYPES, "F4", 1])
    elif isinstance(old, list) and old and rng.random() < 0.8:
        numbers = list(old)
        place = rng.randrange(len(numbers))
        numbers[place] = rng.choice([*_NUMBERS, rng.randrange(512)])
        changed[key] = rng.choice([numbers, numbers[::-1], numbers[:place], [1, *old]])
    else:
        changed[key] = rng.choice(_NUMBERS)
    return changed


def _laid_out_again(header: dict[str, Any], contents: bytes) -> bytes:
    """Give every entry that makes sense the bytes that its type and shape need, one after the other."""
    position = 0
    for entry in header.values():
        try:
            n_bytes = STORED_DTYPES[entry["dtype"]].itemsize * math.prod(entry["shape"])
        except (KeyError, TypeError):
            continue
        if isinstance(n_bytes, int) and 0 <= n_bytes <= len(contents) * 2:
            entry["data_offsets"] = [position, position + n_bytes]
            position += n_bytes
    return contents[:position].ljust(position, b"\1")


TARGET = Target("safetensors", seeds, read, mutate, max_bytes=1 << 17, timeout_s=10, memory_mb=1024)

"""Write damaged copies of the embedded model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_numba.demo import demo_model_path
from bitnet_numba.formats.gguf import TensorInfo, open_gguf
from bitnet_numba.formats.gguf_writer import TensorSource
from tests.tiny_files import GGUFModel, replaced

ARCHITECTURE = "bitnet-b1.58"
LAYERS = range(6)
NORMS = ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm")
NORM_NAMES = [*(f"blk.{layer}.{norm}.weight" for layer in LAYERS for norm in NORMS), "output_norm.weight"]

Spoil = Callable[[GGUFModel], object]


def embedded() -> GGUFModel:
    """Return the embedded model's contents."""
    with open_gguf(demo_model_path()) as file:
        stored = {info: file.data(info.name) for info in file.tensors.values()}
        return GGUFModel(dict(file.typed_metadata), {info.name: _source(info, data) for info, data in stored.items()})


def _source(info: TensorInfo, data: npt.NDArray[np.uint8]) -> TensorSource:
    return TensorSource(info.name, info.type, info.shape, lambda: data)


def spoilt(path: Path, spoil: Spoil) -> Path:
    """Write the embedded model to a file after ``spoil`` changed it."""
    model = embedded()
    spoil(model)
    return model.write(path)


def data_of(model: GGUFModel, name: str) -> npt.NDArray[np.uint8]:
    """Return a copy of a tensor's bytes."""
    return np.array(model.tensors[name].read(), copy=True).reshape(-1).view(np.uint8)


def put(model: GGUFModel, name: str, data: npt.NDArray[np.uint8]) -> None:
    """Replace the bytes of a tensor."""
    model.tensors[name] = replaced(model.tensors[name], data=data)


def scale_norms(model: GGUFModel, factor: float, names: list[str] = NORM_NAMES) -> None:
    """Multiply norms by a factor."""
    for name in names:
        put(model, name, (data_of(model, name).view("<f4") * np.float32(factor)).view(np.uint8))


def set_scale(model: GGUFModel, name: str, change: Callable[[np.float32], float]) -> None:
    """Change the scale of an I2_S tensor."""
    data = data_of(model, name)
    scale = data[-32:-28].view("<f4")
    scale[0] = change(scale[0])
    put(model, name, data)

"""A Hugging Face checkpoint as a GGUF file: the same input gives the same bytes, or an error and no file."""

from pathlib import Path

from bitnet_numba.export.json_file import read_json
from bitnet_numba.export.shape import read_shape, shape_metadata
from bitnet_numba.export.special_tokens import special_token_metadata
from bitnet_numba.export.tensors import i2s_tensors
from bitnet_numba.export.vocabulary import read_vocabulary
from bitnet_numba.formats.gguf_types import FILE_TYPE_I2_S
from bitnet_numba.formats.gguf_writer import write_gguf
from bitnet_numba.formats.safetensors import open_checkpoint

QUANTIZATION_VERSION = 2


def export_gguf(source: Path, out: Path, *, name: str | None = None) -> None:
    """Write a checkpoint as a GGUF file whose linear layers are I2_S.

    One tensor at a time is in memory. The file holds no date, no path and nothing about the machine.

    Parameters
    ----------
    source : Path
        Directory with ``config.json``, ``tokenizer.json`` and safetensors files: bf16, f16 or f32 master weights, or
        packed ternary ones.
    out : Path
        Replaced if it exists.
    name : str, optional
        The model's name in the file; that of the directory by default.

    Raises
    ------
    FormatError
        If the checkpoint contradicts itself, or a weight is not finite; ``out`` is then as it was.
    UnsupportedError
        If the model's family, or its tokenizer, is not exported.
    BitNetError
        If a file is missing, or ``out`` cannot be written.
    """
    config = read_json(source / "config.json")
    tokenizer = read_json(source / "tokenizer.json")
    shape = read_shape(config)
    vocabulary = read_vocabulary(tokenizer, shape.vocab_size)
    metadata = {
        "general.architecture": shape.architecture,
        "general.name": name or source.resolve().name,
        **shape_metadata(shape),
        "general.file_type": FILE_TYPE_I2_S,
        "general.quantization_version": QUANTIZATION_VERSION,
        **vocabulary.metadata(),
        **special_token_metadata(source, config, tokenizer, vocabulary),
    }
    with open_checkpoint(source) as checkpoint:
        write_gguf(out, metadata, i2s_tensors(checkpoint, shape))

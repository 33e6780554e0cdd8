"""Reader of models in Hugging Face directories, config.json and safetensors: every tensor by its role, checked."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError, excerpt
from bitnet_numba.formats import json_file
from bitnet_numba.formats.mapping import equal_bytes
from bitnet_numba.formats.packing.huggingface import unpack_hf
from bitnet_numba.formats.safetensors import open_checkpoint
from bitnet_numba.formats.tensor_formats import float_codec
from bitnet_numba.model.config import config_from_hf, quantization_config
from bitnet_numba.model.full_precision import refuse_full_precision
from bitnet_numba.model.refused_settings import QUANTIZATION, refuse_settings
from bitnet_numba.model.roles import LINEAR_ROLES, Role
from bitnet_numba.model.source import (
    CorrectionRecord,
    Matrix,
    TernaryMatrix,
    check_tensors,
    checked_finite,
    checked_scale,
    describe,
    expected_shapes,
    names_by_role,
    ternary_from_floats,
)
from bitnet_numba.text.chat import read_directory_template
from bitnet_numba.text.tokenizer import Tokenizer, tokenizer_from_file


class HuggingFaceSource:
    """An open Hugging Face directory, for the methods see :class:`~bitnet_numba.model.source.ModelSource`.

    It has ``config.json`` and ``model.safetensors``, or its shards and their index; ``names`` is by role. Raises a
    BitNetError if a file cannot be read, they contradict each other, or the model is not one that is run here.
    """

    notes: tuple[str, ...] = ()
    corrections: tuple[CorrectionRecord, ...] = ()

    def __init__(self, path: Path, tokenizer: Path | None = None) -> None:
        self.path = path
        self._tokenizer = tokenizer
        settings = read_json(path / "config.json")
        try:
            self.config = config_from_hf(settings, path.resolve().name)
        except BitNetError as error:
            raise type(error)(f"{path}: {error}") from None
        quantization = quantization_config(settings)
        self._divides = scale_divides(path, quantization)
        self.has_masters = self.config.family.hf_quantizes or "quant_method" in quantization
        self.checkpoint = open_checkpoint(path)
        self.names = names_by_role(path, self.config.family.hugging_face, self.checkpoint.tensors)
        self.tied = self._is_tied(settings)
        self._check()
        refuse_full_precision(path, self.names, self.checkpoint.tensors, quantization)
        self.chat_template = read_directory_template(path)

    def linear(self, role: str, layer: int) -> TernaryMatrix:
        wanted = Role(role, layer)
        name, place = self.names[wanted], self.place(wanted)
        if self.checkpoint.tensors[name].dtype != "U8":
            return ternary_from_floats(self.checkpoint.float32(name), place, are_masters=self.has_masters)
        stored = float(self.checkpoint.float32(self.names[Role(role, layer, "scale")]).reshape(-1)[0])
        scale = checked_scale(stored, place)
        # the same key means two things: transformers' AutoBitLinear multiplies by it, BitLinear divides
        return TernaryMatrix(
            checked_scale(1 / float(scale), place) if self._divides else scale,
            weights=unpack_hf(self.checkpoint.raw(name), place),
        )

    def norm(self, role: str, layer: int | None) -> npt.NDArray[np.float32]:
        wanted = Role(role, layer)
        return checked_finite(self.checkpoint.float32(self.names[wanted]), self.place(wanted))

    def matrix(self, role: str) -> Matrix:
        entry, place = self.checkpoint.tensors[self.names[Role(role)]], self.place(Role(role))
        codec = float_codec(entry.dtype)
        if codec is None:
            raise UnsupportedError(f"{place}: {entry.dtype} is not run here; save it as BF16, F16 or F32")
        return codec.matrix(self.checkpoint.raw(entry.name), (entry.shape[0], entry.shape[1]), place)

    def rope_factors(self) -> npt.NDArray[np.float64] | None:
        """Return nothing: a Hugging Face model states its RoPE scaling in config.json."""
        return None

    def tokenizer(self) -> Tokenizer:
        return tokenizer_from_file(self._tokenizer or self.path / "tokenizer.json")

    def tensor_types(self) -> Mapping[str, int]:
        return Counter(entry.dtype for entry in self.checkpoint.tensors.values())

    def close(self) -> None:
        self.checkpoint.close()

    def _is_tied(self, settings: Mapping[str, Any]) -> bool:
        """Whether the embedding is the head; as in transformers, not where the file has another head."""
        tied = settings.get("tie_word_embeddings", Role("output") not in self.names)
        if not isinstance(tied, bool | None):
            raise FormatError(
                f"{self.path}: config.json: key 'tie_word_embeddings': expected true or false, got {excerpt(tied)}"
            )
        head = self.names.get(Role("output"))
        if not tied or head is None or Role("token_embd") not in self.names:
            return bool(tied)
        if self._are_equal(head, self.names[Role("token_embd")]):
            return True
        self.notes += (f"config.json ties the head to the embedding, but {head!r} is another matrix: it is the head",)
        return False

    def _are_equal(self, name: str, other: str) -> bool:
        """Compare two tensors byte by byte."""
        first, second = self.checkpoint.tensors[name], self.checkpoint.tensors[other]
        return (first.dtype, first.shape) == (second.dtype, second.shape) and equal_bytes(
            self.checkpoint.raw(name).reshape(-1).view(np.uint8),
            self.checkpoint.raw(other).reshape(-1).view(np.uint8),
            self.checkpoint.forget_pages,
        )

    def _check(self) -> None:
        expected = expected_shapes(self.config, tied=self.tied)
        for role, (rows, *columns) in list(expected.items()):
            name = self.names.get(role)
            if name is None or role.name not in LINEAR_ROLES or self.checkpoint.tensors[name].dtype != "U8":
                continue
            if rows % 4:
                raise FormatError(f"{self.place(role)}: {rows} rows cannot be packed by four")
            expected[role] = (rows // 4, *columns)
            expected[Role(role.name, role.layer, "scale")] = (1,)
        found = {role: self.checkpoint.tensors[name].shape for role, name in self.names.items()}
        check_tensors(self.path, found, expected, optional=[Role("output")] if self.tied else [])

    def place(self, role: Role) -> str:
        """Return directory and tensor, for messages."""
        return f"{self.path}: {describe(role)}"


def scale_divides(path: Path, quantization: Mapping[str, Any]) -> bool:
    """Tell whether the weights of a packed matrix are divided by its scale, as in transformers' BitLinear.

    ``quantization`` is the result of :func:`~bitnet_numba.model.config.quantization_config`; ``path`` is for messages.
    """
    refuse_settings(quantization, QUANTIZATION, f"{path}: config.json: quantization_config: ")
    return bool(quantization.get("linear_class", "bitlinear") == "bitlinear")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that a Hugging Face model must have; raises as :func:`json_file.read_json`."""
    return json_file.read_json(path, if_missing="a Hugging Face model needs it beside its weights").values

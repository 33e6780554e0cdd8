"""Reader of models in GGUF files: every tensor by its role, checked when the file is opened."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError, excerpt
from bitnet_numba.formats.gguf import TensorType, open_gguf
from bitnet_numba.formats.packing.codec import FloatCodec
from bitnet_numba.formats.tensor_formats import FORMATS, Kind, matrix_codec, ternary_codec
from bitnet_numba.model.config import config_from_gguf
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
    ternary_of_scale,
)
from bitnet_numba.text.tokenizer import Tokenizer, tokenizer_from_file, tokenizer_from_gguf

MASTERS_KEY = "bitnet_numba.master_weights"
"""Metadata key that says whether linear layers in floats are master weights, of any architecture."""

SCALED_TENSORS_KEY, SCALES_KEY = "bitnet_numba.linear_tensors", "bitnet_numba.linear_scales"
"""Metadata keys of linear layers in floats and their exact scales, which the type of the weights may have rounded."""

OWN_KEYS = (MASTERS_KEY, SCALED_TENSORS_KEY, SCALES_KEY)


class GGUFSource:
    """An open GGUF file, for the methods see :class:`~bitnet_numba.model.source.ModelSource`; ``names`` is by role.

    Raises a BitNetError if the file cannot be read, contradicts itself, or has an architecture that is not run here.
    """

    notes: tuple[str, ...] = ()
    corrections: tuple[CorrectionRecord, ...] = ()

    def __init__(self, path: Path, tokenizer: Path | None = None) -> None:
        self.path = path
        self._tokenizer = tokenizer
        self.file = open_gguf(path)
        try:
            self.config = config_from_gguf(self.file.metadata)
        except BitNetError as error:
            raise type(error)(f"{path}: {error}") from None
        template = self.file.metadata.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) else None
        self.names = names_by_role(path, self.config.family.gguf, self.file.tensors)
        self.tied = Role("output") not in self.names
        self.has_masters = self._has_masters()
        self.exact_scales = self._exact_scales()
        self._check()

    def linear(self, role: str, layer: int) -> TernaryMatrix:
        """Return the weights of a linear layer, rows as the file has them."""
        wanted = Role(role, layer)
        matrix = self._stored_linear(wanted)
        separate = Role(role, layer, "scale")
        if separate not in self.names:
            return matrix
        factor = checked_scale(float(self._floats(separate)[0]), self._place(separate))
        scale = checked_scale(float(matrix.scale) * float(factor), self._place(wanted))
        return TernaryMatrix(scale, matrix.weights, matrix.i2s)

    def norm(self, role: str, layer: int | None) -> npt.NDArray[np.float32]:
        wanted = Role(role, layer)
        if FORMATS[self._type(wanted)].kind is not Kind.FLOAT:
            raise UnsupportedError(f"{self._place(wanted)}: a quantized norm; norms are kept in F32: convert again")
        return checked_finite(self._floats(wanted), self._place(wanted))

    def matrix(self, role: str) -> Matrix:
        wanted = Role(role)
        info = self.file.tensors[self.names[wanted]]
        data, shape, place = self.file.data(info.name), (info.shape[0], info.shape[1]), self._place(wanted)
        codec = matrix_codec(info.type)
        if codec is None:
            raise UnsupportedError(
                f"{place}: {info.type.name} is not run as an embedding; use F16, BF16, F32, Q8_0 or Q6_K"
            )
        if FORMATS[info.type].kind is Kind.DEQUANTIZED:
            self._check_linears()  # dequantizing takes seconds: refuse the model before, not after
        return codec.matrix(data, shape, place)

    def rope_factors(self) -> npt.NDArray[np.float64] | None:
        role = Role("rope_freqs")
        if role not in self.names:
            return None
        factors = checked_finite(self._floats(role), self._place(role)).astype(np.float64)
        if factors.shape != (self.config.head_dim // 2,) or not (factors > 0).all():
            raise FormatError(f"{self._place(role)}: expected {self.config.head_dim // 2} numbers above 0")
        return factors

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer inside the file, or that of a ``tokenizer.json`` beside a file that has none."""
        if self._tokenizer is not None:
            return tokenizer_from_file(self._tokenizer)
        beside = self.path.with_name("tokenizer.json")
        if "tokenizer.ggml.model" not in self.file.metadata and beside.is_file():
            return tokenizer_from_file(beside)
        try:
            return tokenizer_from_gguf(self.file.metadata)
        except BitNetError as error:
            raise type(error)(f"{self.path}: {error}") from None

    def tensor_types(self) -> Mapping[str, int]:
        return Counter(info.type.name for info in self.file.tensors.values())

    def close(self) -> None:
        self.file.close()

    # ---- the file's tensors by role ----------------------------------------------------------------------------------
    def _check(self) -> None:
        tokens = self.file.metadata.get("tokenizer.ggml.tokens")
        if tokens is not None and len(tokens) != self.config.vocab_size:
            raise FormatError(
                f"{self.path}: the vocabulary has {len(tokens):,} tokens, vocab_size says {self.config.vocab_size:,}"
            )
        found = {role: self.file.tensors[name].shape for role, name in self.names.items()}
        expected = expected_shapes(self.config, tied=self.tied)
        layers = range(self.config.n_layers)
        scales = {Role(name, layer, "scale") for name in LINEAR_ROLES for layer in layers} & found.keys()
        check_tensors(self.path, found, expected | dict.fromkeys(scales, (1,)), optional=[Role("rope_freqs")])

    def _stored_linear(self, role: Role) -> TernaryMatrix:
        info = self.file.tensors[self.names[role]]
        data, shape, place = self.file.data(info.name), (info.shape[0], info.shape[1]), self._place(role)
        codec = ternary_codec(info.type)
        if codec is not None:
            return codec.linear(data, shape, place)
        self._check_linear(role)
        if info.name in self.exact_scales:
            scale = np.float32(self.exact_scales[info.name])
            rounded = cast(FloatCodec, FORMATS[info.type].codec).stored_value(scale)
            return ternary_of_scale(self._floats(role), scale, rounded, place, are_masters=self.has_masters)
        return ternary_from_floats(self._floats(role), place, are_masters=self.has_masters)

    def _has_masters(self) -> bool:
        """Whether linear layers in floats are master weights: the file says so, or it is BitNet and has no others."""
        if not self.file.metadata.keys().isdisjoint(OWN_KEYS):
            return self.file.metadata.get(MASTERS_KEY) is True
        linears = [role for role in self.names if role.part == "weight" and role.name in LINEAR_ROLES]
        return self.config.family.has_masters and not any(ternary_codec(self._type(role)) for role in linears)

    def _exact_scales(self) -> dict[str, float]:
        """Return the scales of linear layers in floats that the file states, by tensor name."""
        names, scales = (self.file.metadata.get(key, []) for key in (SCALED_TENSORS_KEY, SCALES_KEY))
        if not isinstance(names, list) or not isinstance(scales, list) or len(names) != len(scales):
            raise FormatError(f"{self.path}: {SCALES_KEY} has not one scale for each of {SCALED_TENSORS_KEY}")
        stated = dict(zip(names, scales, strict=True))
        for name, scale in stated.items():
            if name not in self.file.tensors or not isinstance(scale, float):
                raise FormatError(f"{self.path}: {SCALES_KEY}: no scale of a tensor of this file: {excerpt(name)}")
        return stated

    def _check_linears(self) -> None:
        for role in self.names:
            if role.part == "weight" and role.name in LINEAR_ROLES:
                self._check_linear(role)

    def _check_linear(self, role: Role) -> None:
        if FORMATS[self._type(role)].kind not in (Kind.TERNARY, Kind.FLOAT):
            name = self._type(role).name
            raise UnsupportedError(f"{self._place(role)}: {name} is not ternary; take the model's I2_S file")

    def _floats(self, role: Role) -> npt.NDArray[np.float32]:
        info = self.file.tensors[self.names[role]]
        return FORMATS[info.type].codec.dequantize(self.file.data(info.name), info.shape, self._place(role))

    def _type(self, role: Role) -> TensorType:
        return self.file.tensors[self.names[role]].type

    def _place(self, role: Role) -> str:
        return f"{self.path}: {describe(role)}"

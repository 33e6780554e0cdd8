"""A model's source with something changed on the way out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_numba.model.source import CorrectionRecord, Matrix, ModelSource, TernaryMatrix
from bitnet_numba.text.tokenizer import Tokenizer, tokenizer_from_file


class WrappedSource:
    """A source that hands out what another one does; a child changes a part of it.

    Parameters
    ----------
    source : ModelSource
    notes : tuple of str
        What the user should know about it, besides what the source says.
    """

    def __init__(self, source: ModelSource, notes: tuple[str, ...] = ()) -> None:
        self._source = source
        self.notes = (*source.notes, *notes)
        self.path = source.path
        self.config = source.config
        self.tied = source.tied
        self.chat_template = source.chat_template

    @property
    def corrections(self) -> tuple[CorrectionRecord, ...]:
        """What was changed in the tensors that were handed out so far."""
        return self._source.corrections

    def linear(self, role: str, layer: int) -> TernaryMatrix:
        """Return the weights of a linear layer, rows as the file has them."""
        return self._source.linear(role, layer)

    def norm(self, role: str, layer: int | None) -> npt.NDArray[np.float32]:
        """Return the weights of a norm, all finite."""
        return self._source.norm(role, layer)

    def matrix(self, role: str) -> Matrix:
        """Return the embedding (``token_embd``) or the head (``output``)."""
        return self._source.matrix(role)

    def rope_factors(self) -> npt.NDArray[np.float64] | None:
        """Return what the file divides each RoPE frequency by, if it says so."""
        return self._source.rope_factors()

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer that came with the model."""
        return self._source.tokenizer()

    def tensor_types(self) -> Mapping[str, int]:
        """Return how many tensors are stored in each type, by the type's name."""
        return self._source.tensor_types()

    def close(self) -> None:
        """Give the files back."""
        self._source.close()


class WithTokenizer(WrappedSource):
    """A source whose tokenizer comes from a file of its own.

    Parameters
    ----------
    source : ModelSource
    file : Path
        A ``tokenizer.json``.
    """

    def __init__(self, source: ModelSource, file: Path) -> None:
        super().__init__(source)
        self._file = file

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer of the file."""
        return tokenizer_from_file(self._file)

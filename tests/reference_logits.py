"""Logits that other programs computed for the fixtures: cut to a small size, and how well ours agree with them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DATA = Path(__file__).parent / "data"
STRIDE = 8  # of the vocabulary columns that a cut keeps

Floats = npt.NDArray[np.float32]


class ReferenceLogits(NamedTuple):
    """Some of the logits of a text, as another program computed them.

    Attributes
    ----------
    tokens : int32[n_tokens]
    first : float32[vocab_size]
        All logits of the first position.
    columns : float32[n_tokens, vocab_size // stride]
        Every ``stride``-th logit of every position.
    best : int64[n_tokens]
        The most probable token of every position.
    """

    tokens: npt.NDArray[np.int32]
    first: Floats
    columns: Floats
    best: npt.NDArray[np.int64]

    @classmethod
    def cut(cls, tokens: npt.NDArray[np.int32], logits: Floats, stride: int = STRIDE) -> "ReferenceLogits":
        """Keep a share of a dump; a stride of 1 keeps all."""
        tokens = tokens.reshape(-1).astype(np.int32)
        logits = logits.reshape(tokens.size, -1)
        return cls(tokens, logits[0], np.ascontiguousarray(logits[:, ::stride]), logits.argmax(axis=1))

    @classmethod
    def load(cls, file: Path, prefix: str = "") -> "ReferenceLogits":
        """Read what :meth:`save_fields` put into an npz file."""
        with np.load(file) as arrays:
            return cls(*(arrays[prefix + field] for field in cls._fields))

    def save_fields(self, prefix: str = "") -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays of an npz file, by name."""
        return {prefix + field: array for field, array in self._asdict().items()}

    def agreement(self, logits: Floats) -> "Agreement":
        """Compare logits of the same text, float32[n_tokens, vocab_size], with these."""
        columns = logits[:, :: logits.shape[1] // self.columns.shape[1]]
        return Agreement(
            first=float(np.abs(logits[0] - self.first).max()),
            largest=float(np.abs(columns - self.columns).max()),
            correlation=float(np.corrcoef(columns.reshape(-1), self.columns.reshape(-1))[0, 1]),
            same_best=float((logits.argmax(axis=1) == self.best).mean()),
        )


class Agreement(NamedTuple):
    """How well logits agree with a reference.

    Attributes
    ----------
    first, largest : float
        The largest difference at the first position, and anywhere.
    correlation : float
    same_best : float
        The share of positions with the same most probable token.
    """

    first: float
    largest: float
    correlation: float
    same_best: float

"""What one step takes of several sequences, and how the kernels find it."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from bitnet_numba.engine.cache import KVCache
from bitnet_numba.engine.forward.arrays import QUERY_TILE
from bitnet_numba.engine.head import NeededLogits

MAX_CHUNK = 512  # tokens of one step
PREFILL_CHUNK = 256  # of a prompt's step: enough to use each weight often, few enough to let others in between

SequenceT = TypeVar("SequenceT")
Int32s = npt.NDArray[np.int32]


class Piece(NamedTuple, Generic[SequenceT]):
    """What a step takes of one sequence.

    Attributes
    ----------
    tokens : int32[n_tokens]
        At least one.
    cache : KVCache
        Holds the sequence so far.
    n_logits : int
        Of how many of the last tokens logits are asked for.
    needed : NeededLogits, optional
        Which logits of these must be exact; see :meth:`Transformer.forward`.
    """

    tokens: npt.NDArray[np.int32]
    cache: SequenceT
    n_logits: int = 1
    needed: NeededLogits | None = None


class PlacedTokens(NamedTuple):
    """The tokens of a step; fields of :class:`bitnet_numba.engine.forward.arrays.Order`."""

    tokens: Int32s
    positions: Int32s
    sequences: Int32s
    tiles: Int32s
    wanted: Int32s


def place_tokens(pieces: Sequence[Piece[KVCache]]) -> PlacedTokens:
    """Lay the tokens of several sequences out one after the other, each behind what its cache holds."""
    lengths = [piece.tokens.size for piece in pieces]
    borders = np.cumsum([0, *lengths])
    ends = zip(pieces, borders[1:], strict=True)
    return PlacedTokens(
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        positions=_int32s(piece.cache.length + i for piece in pieces for i in range(piece.tokens.size)),
        sequences=np.repeat(np.arange(len(pieces), dtype=np.int32), lengths),
        tiles=_tiles(borders),
        wanted=_int32s(token for piece, end in ends for token in range(end - piece.n_logits, end)),
    )


def _int32s(numbers: Iterable[int]) -> Int32s:
    return np.fromiter(numbers, np.int32)


def _tiles(borders: npt.NDArray[np.int64]) -> Int32s:
    """Cut the tokens of each sequence into tiles of attention: first token and number of tokens."""
    tiles = [
        (token, min(QUERY_TILE, end - token))
        for first, end in itertools.pairwise(borders)
        for token in range(first, end, QUERY_TILE)
    ]
    return np.array(tiles, np.int32)

"""What one step takes of several sequences, and how the kernels find it."""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.candidates import NeededLogits
from bitnet_numba.backends.cpu.forward.arrays import QUERY_TILE
from bitnet_numba.backends.cpu.kv_cache import KVCache

MAX_CHUNK = 512  # tokens of one step
PREFILL_CHUNK = 256  # of a prompt's step: enough to use each weight often, few enough to let others in between

SequenceT = TypeVar("SequenceT")
Int32s = npt.NDArray[np.int32]


class TokenChunk(NamedTuple, Generic[SequenceT]):
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
    """The tokens of a step; fields of ``StepInput``."""

    tokens: Int32s
    positions: Int32s
    sequences: Int32s
    tiles: Int32s
    wanted: Int32s


def place_tokens(pieces: Sequence[TokenChunk[KVCache]]) -> PlacedTokens:
    """Lay the tokens of several sequences out one after the other, each behind what its cache holds."""
    positions: list[int] = []
    sequences: list[int] = []
    tiles: list[tuple[int, int, int, int]] = []
    wanted: list[int] = []
    for number, piece in enumerate(pieces):
        n_tokens, n_before = piece.tokens.size, piece.cache.length
        first = len(positions)
        end = first + n_tokens
        positions += range(n_before, n_before + n_tokens)
        sequences += [number] * n_tokens
        n_tiles, first_tile = -(-n_tokens // QUERY_TILE), len(tiles)
        tiles += [(token, min(QUERY_TILE, end - token), first_tile, n_tiles) for token in range(first, end, QUERY_TILE)]
        wanted += range(end - piece.n_logits, end)
    return PlacedTokens(
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        positions=np.array(positions, np.int32),
        sequences=np.array(sequences, np.int32),
        tiles=np.array(tiles, np.int32),
        wanted=np.array(wanted, np.int32),
    )

"""The tokens of a step as index arrays: the counterpart of a batched input with its attention metadata."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bitnet_numba.backends.cpu.array_types import Int32s
from bitnet_numba.backends.cpu.forward.arrays import QUERY_TILE
from bitnet_numba.backends.cpu.kv_cache import KVCache
from bitnet_numba.backends.protocol import TokenChunk


class BatchIndices(NamedTuple):
    """The tokens of a step and where each belongs; fields of ``StepInput``."""

    tokens: Int32s
    positions: Int32s
    sequences: Int32s
    tiles: Int32s
    wanted: Int32s


def batch_indices(chunks: Sequence[TokenChunk[KVCache]]) -> BatchIndices:
    """Concatenate the tokens of several sequences; each chunk starts at its cache's length."""
    positions: list[int] = []
    sequences: list[int] = []
    tiles: list[tuple[int, int, int, int]] = []
    wanted: list[int] = []
    for sequence, chunk in enumerate(chunks):
        n_tokens, n_before = chunk.tokens.size, chunk.cache.length
        first = len(positions)
        end = first + n_tokens
        positions += range(n_before, n_before + n_tokens)
        sequences += [sequence] * n_tokens
        n_tiles, first_tile = -(-n_tokens // QUERY_TILE), len(tiles)
        tiles += [(token, min(QUERY_TILE, end - token), first_tile, n_tiles) for token in range(first, end, QUERY_TILE)]
        wanted += range(end - chunk.n_logits, end)
    return BatchIndices(
        tokens=np.concatenate([chunk.tokens for chunk in chunks]),
        positions=np.array(positions, np.int32),
        sequences=np.array(sequences, np.int32),
        tiles=np.array(tiles, np.int32),
        wanted=np.array(wanted, np.int32),
    )

"""Attention and the storing of positions on arrays that are checked first."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.attention.block import (
    ROWS,
    Scratch,
    Seen,
    attend_block_worker,
    attention_scratch,
    scratch_of,
    unseeing,
)
from bitnet_numba.backends.cpu.kernels.attention.results import begin_merge, end_merge, merge_block
from bitnet_numba.backends.cpu.kernels.attention.store import BLOCK, TILE, HeadBlock, store_position_worker
from bitnet_numba.backends.cpu.kernels.checks import check_array, check_lanes, check_rank
from bitnet_numba.backends.cpu.kernels.jit import jit, jit_inline

Floats = npt.NDArray[np.float32]


def attend(query: Floats, cache: HeadBlock, n_positions: int, out: Floats) -> None:
    """Write one query head's ``softmax(query . keys) . values`` to ``out``.

    Parameters
    ----------
    query : float32[head_dim]
        Turned by its position, and divided by the root of the true head size; ``head_dim`` is a multiple of 16.
    cache : HeadBlock
        As many positions as there are, also more than 256.
    n_positions : int
        How many of them the query sees.
    out : float32[head_dim]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.

    References
    ----------
    Ainslie et al., "GQA", 2023; blocks are merged as in Milakov and Gimelshein, "Online normalizer", 2018.
    """
    check_lanes("query", query.size)
    check_array("query", query, np.float32, (query.size,))
    check_array("out", out, np.float32, (query.size,), written=True)
    attend_many(query.reshape(1, -1), cache, n_positions, 1, out.reshape(1, -1))


def attend_many(queries: Floats, cache: HeadBlock, n_positions: int, group: int, out: Floats) -> None:
    """Write the attention outputs of neighbouring tokens to ``out``, each as :func:`attend` computes it.

    Parameters
    ----------
    queries, out : float32[n_tokens * group, head_dim]
        As in :func:`attend`, those of a token together.
    cache : HeadBlock
        As many positions as there are, also more than 256.
    n_positions : int
        How many of them the first token sees; each next one sees one more.
    group : int
        Queries of a token.

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_rank("queries", queries, 2)
    n_queries, head_dim = queries.shape
    check_lanes("queries", head_dim)
    if group < 1:
        raise ValueError(f"group: expected at least 1, got {group}")
    if n_queries == 0 or n_queries % group:
        raise ValueError(f"queries: expected a multiple of group = {group}, got {n_queries}")
    _check_cache(cache, head_dim)
    last = n_positions + n_queries // group - 1
    if not 0 < n_positions <= last <= cache.keys.size // head_dim:
        raise ValueError(f"n_positions: expected 1 to {cache.keys.size // head_dim}, got {n_positions} to {last}")
    check_array("queries", queries, np.float32, queries.shape)
    check_array("out", out, np.float32, queries.shape, written=True)
    rows = np.zeros((n_queries + ROWS, head_dim), np.float32)
    rows[:n_queries] = queries
    scratch = attention_scratch(1, n_queries, head_dim)
    _attend_worker(rows.reshape(-1), cache, Seen(n_queries, n_positions, group), scratch, out)


@jit
def _attend_worker(rows: Floats, cache: HeadBlock, seen: Seen, of_threads: Scratch, out: Floats) -> None:
    """Take a cache that is one array block by block; ``seen`` counts the positions of all."""
    head_dim, scratch = out.shape[1], scratch_of(of_threads, 0)
    begin_merge(scratch.merged, seen.n_queries, head_dim)
    for first in range(0, seen.first + (seen.n_queries - 1) // seen.group, BLOCK):
        of_block = Seen(seen.n_queries, seen.first - first, seen.group)
        attend_block_worker(rows, _block_from(cache, first, head_dim), of_block, scratch)
        merge_block(scratch.merged, scratch.found, unseeing(of_block), seen.n_queries, head_dim, scratch.factors)
    for query in range(seen.n_queries):
        end_merge(scratch.merged, query, out[query])


def store_position(cache: HeadBlock, position: int, key: Floats, value: Floats) -> None:
    """Write one head's key and value of a position to the cache, in the cache's own number format.

    An int8 key or value gets the scale ``max|x| / 127``, and whole numbers rounded half to even.

    Parameters
    ----------
    cache : HeadBlock
        As many positions as there are.
    position : int
        One of them, from 0 on.
    key, value : float32[head_dim]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_lanes("key", key.size)
    _check_cache(cache, key.size, written=True)
    check_array("key", key, np.float32, (key.size,))
    check_array("value", value, np.float32, (key.size,))
    if not 0 <= position < cache.keys.size // key.size:
        raise ValueError(f"position: expected 0 to {cache.keys.size // key.size - 1}, got {position}")
    store_position_worker(cache, position, key.copy(), value.copy())


@jit_inline
def _block_from(cache: HeadBlock, first: int, head_dim: int) -> HeadBlock:
    whole, scales = slice(first * head_dim, (first + BLOCK) * head_dim), slice(first, first + BLOCK)
    return HeadBlock(cache.keys[whole], cache.values[whole], cache.key_scales[scales], cache.value_scales[scales])


def _check_cache(cache: HeadBlock, head_dim: int, *, written: bool = False) -> None:
    keys: npt.NDArray[Any] = cache.keys
    check_lanes("keys", keys.size, TILE * head_dim)
    if keys.dtype not in (np.float32, np.uint16, np.int8):
        raise ValueError(f"keys: expected float32, float16 bits (uint16) or int8, got {keys.dtype}")
    check_array("keys", keys, keys.dtype, (keys.size,), written=written)
    check_array("values", cache.values, keys.dtype, (keys.size,), written=written)
    n_scales = keys.size // head_dim if keys.dtype == np.int8 else 0
    check_array("key_scales", cache.key_scales, np.float32, (n_scales,), written=written)
    check_array("value_scales", cache.value_scales, np.float32, (n_scales,), written=written)

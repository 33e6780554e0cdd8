"""Attention and the storing of positions on arrays that are checked first."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.kernels.attention.block import attend_block_worker, begin_merge, end_merge, merge_block
from bitnet_numba.kernels.attention.four import attend_block_four_worker
from bitnet_numba.kernels.attention.store import BLOCK, HEADER, TILE, HeadBlock, store_position_worker
from bitnet_numba.kernels.checks import check_array, check_lanes, check_rank

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
    head_dim = query.size
    check_lanes("query", head_dim)
    _check_cache(cache, head_dim)
    _check_count("n_positions", n_positions, cache, head_dim)
    check_array("query", query, np.float32, (head_dim,))
    check_array("out", out, np.float32, (head_dim,), written=True)
    scores, partial, merged = np.zeros(BLOCK, np.float32), *np.zeros((2, HEADER + head_dim), np.float32)
    begin_merge(merged)
    for first in range(0, n_positions, BLOCK):
        block = _block_from(cache, first, head_dim)
        attend_block_worker(query, block, min(BLOCK, n_positions - first), scores, partial)
        merge_block(merged, partial)
    end_merge(merged, out)


def attend_four(queries: Floats, block: HeadBlock, counts: tuple[int, int, int, int], out: Floats) -> None:
    """Write the attention outputs of four queries over one block to ``out``, each as :func:`attend` computes it.

    Parameters
    ----------
    queries, out : float32[4, head_dim]
        ``head_dim`` is a multiple of 32.
    block : HeadBlock
        At most 256 positions.
    counts : tuple of int
        How many positions each query sees, at least one.

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_rank("queries", queries, 2)
    head_dim = queries.shape[1]
    check_lanes("queries", head_dim, 32)
    _check_cache(block, head_dim)
    for count in counts:
        _check_count("counts", count, block, head_dim)
        if count > BLOCK:
            raise ValueError(f"counts: expected at most {BLOCK}, got {count}")
    check_array("queries", queries, np.float32, (4, head_dim))
    check_array("out", out, np.float32, (4, head_dim), written=True)
    scores, partials = np.zeros((4, BLOCK), np.float32), np.zeros((4, HEADER + head_dim), np.float32)
    attend_block_four_worker((queries[0], queries[1], queries[2], queries[3]), block, counts, scores, partials)
    for query in range(4):
        merged = np.zeros(HEADER + head_dim, np.float32)
        begin_merge(merged)
        merge_block(merged, partials[query])
        end_merge(merged, out[query])


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


def _block_from(cache: HeadBlock, first: int, head_dim: int) -> HeadBlock:
    whole, scales = slice(first * head_dim, (first + BLOCK) * head_dim), slice(first, first + BLOCK)
    return HeadBlock(cache.keys[whole], cache.values[whole], cache.key_scales[scales], cache.value_scales[scales])


def _check_count(name: str, count: int, cache: HeadBlock, head_dim: int) -> None:
    if not 0 < count <= cache.keys.size // head_dim:
        raise ValueError(f"{name}: expected 1 to {cache.keys.size // head_dim}, got {count}")


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

"""NumPy twins of what only the CPU backend's kernels have: packed layouts, the cache's number formats, the int8 filter.

The mathematics of the model comes from the NumPy backend and is exported from here as well.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.numpy.operators import (
    attend,
    embedding,
    gated_relu2,
    gated_silu,
    head_product,
    quantize_absmax,
    rms_norm,
    rope,
    rope_table,
    scale,
    softmax,
    ternary_product,
)

__all__ = [
    "add_scaled",
    "attend",
    "block_keys",
    "embedding",
    "gated_relu2",
    "gated_silu",
    "head_product",
    "inverse_frequencies",
    "needed_logits",
    "pack_fives",
    "pack_i2s",
    "pack_r16",
    "quantize_absmax",
    "quantize_rows",
    "rms_norm",
    "rope",
    "rope_table",
    "scale",
    "softmax",
    "store_rows",
    "stretch_llama3",
    "ternary_product",
    "unpack",
]

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def pack_i2s(weights: Codes) -> Bytes:
    """Store -1, 0, +1 as codes 0, 1, 2; weights 32 apart share a byte, the first in its top bits.

    Parameters
    ----------
    weights : int8[rows, columns]
        ``columns`` is a multiple of 128.

    Returns
    -------
    uint8[rows, columns // 4]
    """
    rows, columns = weights.shape
    codes = (weights + 1).astype(np.uint8).reshape(rows, columns // 128, 4, 32)
    packed = codes[:, :, 0] << 6 | codes[:, :, 1] << 4 | codes[:, :, 2] << 2 | codes[:, :, 3]
    return np.asarray(packed.reshape(rows, columns // 4), np.uint8)


def pack_r16(i2s: Bytes) -> Bytes:
    """Put four bytes of each of sixteen rows side by side: a line; then the next four of the same rows."""
    rows, row_bytes = i2s.shape
    lines = [
        i2s[row, at : at + 4]
        for block in range(0, rows, 16)
        for at in range(0, row_bytes, 4)
        for row in range(block, block + 16)
    ]
    return np.concatenate(lines)


def pack_fives(i2s: Bytes) -> Bytes:
    """Pack as :func:`pack_r16` does, but of each five runs of columns the fifth goes to what bytes of the others leave.

    A byte of the n-th of those four runs is 81 a + 27 b + 9 c + 3 d + e: its own four codes, from the top bits on, are
    b to e, and a is what the fifth run's byte at its place holds in the n-th pair of bits.
    """
    rows, row_bytes = i2s.shape
    n_grouped = row_bytes // 160 * 160
    runs = i2s[:, :n_grouped].reshape(rows, -1, 5, 32)  # [row, group, run, byte]
    b, c, d, e = (runs[:, :, :4] >> shift & 3 for shift in (6, 4, 2, 0))
    a = np.stack([runs[:, :, 4] >> shift & 3 for shift in (6, 4, 2, 0)], axis=2)
    fives = 81 * a + 27 * b + 9 * c + 3 * d + e
    return pack_r16(np.concatenate([fives.reshape(rows, -1), i2s[:, n_grouped:]], axis=1))


def unpack(packed: Bytes, rows: int, columns: int, n_grouped: int) -> Codes:
    """Return the weights int8[rows, columns] of :func:`pack_fives`, or of :func:`pack_r16` with no columns grouped."""
    in_rows = packed.reshape(rows // 16, -1, 16, 4).swapaxes(1, 2).reshape(rows, -1)
    n_fives = n_grouped // 5
    fives = in_rows[:, :n_fives].reshape(rows, -1, 4, 32)  # [row, group, run, byte]
    own = np.stack([fives // worth % 3 for worth in (27, 9, 3, 1)], axis=3)  # [row, group, run, quarter, byte]
    grouped = np.concatenate([own, fives[:, :, None] // 81], axis=2).reshape(rows, n_grouped)
    rest = np.stack([in_rows[:, n_fives:].reshape(rows, -1, 32) >> shift & 3 for shift in (6, 4, 2, 0)], axis=2)
    codes = np.concatenate([grouped, rest.reshape(rows, columns - n_grouped)], axis=1)
    return codes.astype(np.int8) - np.int8(1)


def add_scaled(x: Floats, sums: npt.NDArray[np.int32], factor: float) -> Doubles:
    """Return ``x + sums * factor``."""
    return x.astype(np.float64) + scale(sums, factor)


def inverse_frequencies(head_dim: int, theta: float) -> Doubles:
    """Return ``theta ** (-2 * i / head_dim)`` for each pair i."""
    return np.asarray(theta ** (-2 * np.arange(head_dim // 2) / head_dim))


def stretch_llama3(
    inverse_frequency: Doubles,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_seq_len: int,
) -> Doubles:
    """Divide the frequencies of long waves by ``factor``, keep those of short waves, and blend between."""
    stretched = []
    for frequency in inverse_frequency:
        wave_length = 2 * np.pi / frequency
        if wave_length < original_max_seq_len / high_freq_factor:
            stretched.append(frequency)
        elif wave_length > original_max_seq_len / low_freq_factor:
            stretched.append(frequency / factor)
        else:
            kept = (original_max_seq_len / wave_length - low_freq_factor) / (high_freq_factor - low_freq_factor)
            stretched.append((1 - kept) * frequency / factor + kept * frequency)
    return np.array(stretched)


def block_keys(keys: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Lay out [capacity, head_dim] as the cache does: flat blocks of sixteen positions, each [head_dim][16]."""
    return np.concatenate([keys[first : first + 16].T.reshape(-1) for first in range(0, len(keys), 16)])


def store_rows(rows: Floats, dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], Floats, Floats]:
    """Return rows in a cache's number format, the scale of each row (int8 only), and the numbers that they then are."""
    none = np.zeros(0, np.float32)
    if dtype == np.uint16:
        halves = rows.astype(np.float16)
        return halves.view(np.uint16), none, halves.astype(np.float32)
    if dtype == np.int8:
        largest = np.abs(rows).max(axis=1)
        units = largest / np.float32(127)
        factors = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 1e-30)
        whole = np.clip(np.rint(rows * factors[:, None]), -127, 127)
        return whole.astype(np.int8), units, (whole * units[:, None]).astype(np.float32)
    return rows, none, rows


def quantize_rows(matrix: npt.NDArray[Any]) -> tuple[Floats, Codes, Doubles, Doubles]:
    """Return the int8 copy of a matrix of floats, and what is lost by it.

    Returns
    -------
    scales : float32[vocab_size]
        max(max|x|, 1e-30) / 127 of each row.
    codes : int8[vocab_size, hidden_size]
    norms, errors : float64[vocab_size]
        Euclidean norms of scale times codes, and of the rest.
    """
    values = embedding(matrix, np.zeros((len(matrix), 0), np.float32))
    largest = np.maximum(np.abs(values).max(axis=1), np.float32(1e-30)).astype(np.float32)
    scales = largest / np.float32(127)
    products = values.astype(np.float32) * (np.float32(127) / largest)[:, None]
    codes = np.rint(np.clip(products, -127, 127)).astype(np.int8)
    copies = scales.astype(np.float64)[:, None] * codes
    return scales, codes, np.linalg.norm(copies, axis=1), np.linalg.norm(values - copies, axis=1)


def needed_logits(logits: Floats, n_best: int, margin: float, always: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which of a token's logits a screened head must compute."""
    others = np.sort(logits[~always].astype(np.float64))[::-1]
    if others.size == 0:
        return np.ones_like(always)
    nth = others[min(n_best, others.size) - 1] if n_best else -np.inf
    return np.asarray(always | ((logits >= nth) & (logits >= others[0] - margin)), np.bool_)

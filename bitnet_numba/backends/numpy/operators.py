"""The mathematics of a BitNet model in NumPy, a function for each operator: what other backends' kernels must equal.

Integers are exact. Floats are float64, except in the quantizers, which float32 arithmetic defines. The last dimension
is a token's or a head's vector, those before it are free.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_LN_2_HIGH, _LN_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # few bits, so that n * high is exact


def embedding(matrix: npt.NDArray[Any], scales: Floats | None = None) -> Doubles:
    """Return the numbers of an embedding or head; takes the fields of :class:`~bitnet_numba.model.source.Matrix`."""
    if matrix.dtype == np.uint16:
        return matrix.view(np.float16).astype(np.float64)
    if matrix.dtype == np.int16:
        return (matrix.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if matrix.dtype == np.int8 and scales is not None:
        return matrix * np.repeat(scales.astype(np.float64), matrix.shape[1] // scales.shape[1], axis=1)
    return matrix.astype(np.float64, copy=False)


def rms_norm(x: npt.NDArray[Any], weight: Floats, eps: float, n: int) -> Doubles:
    """Return ``x / sqrt(sum(x**2) / n + eps) * weight``."""
    x = x.astype(np.float64)
    return np.asarray(x / np.sqrt(np.sum(x**2, axis=-1, keepdims=True) / n + eps) * weight)


def quantize_absmax(x: Floats) -> tuple[Any, Codes]:
    """Return the scales 127 / max(max|x|, 1e-5) and the codes ``clip(rint(x * scale), -128, 127)``.

    If an element is infinite or NaN, the scale is NaN and all codes are -128.
    """
    largest = np.max(np.abs(x), axis=-1)
    scales = np.float32(127) / np.maximum(np.where(largest < np.inf, largest, np.float32(np.nan)), np.float32(1e-5))
    codes = np.clip(np.rint(x * scales[..., None]), -128, 127)
    return scales, np.where(np.isnan(scales)[..., None], -128, codes).astype(np.int8)


def ternary_product(weights: npt.NDArray[Any], q: Codes) -> npt.NDArray[np.int64]:
    """Multiply weights [rows, columns] with each token of int8[n_tokens, columns]: int64[n_tokens, rows].

    BLAS does it in floats, and exactly: float32 holds every sum of up to 2**17 terms of at most 128.
    """
    dtype: npt.DTypeLike = np.float32 if weights.shape[1] <= 1 << 17 else np.float64
    return np.asarray(np.matmul(q, weights.T, dtype=dtype), np.int64)


def scale(sums: npt.NDArray[Any], factor: Any) -> Doubles:
    """Return integer sums times a scale."""
    return np.asarray(sums.astype(np.float64) * factor)


def gated_relu2(gate: Doubles, up: Doubles) -> Doubles:
    """Return ``relu(gate)**2 * up``."""
    return np.maximum(gate, 0) ** 2 * up


def gated_silu(gate: Doubles, up: Doubles) -> Doubles:
    """Return ``gate * sigmoid(gate) * up``."""
    with np.errstate(over="ignore"):  # exp overflows to infinity, and the quotient to the 0 that is meant
        return np.asarray(gate / (1 + np.exp(-gate)) * up)


def rope_table(inverse_frequency: Doubles, positions: npt.NDArray[Any], half: int) -> Doubles:
    """Return cosines, then sines, of each position's angles; the pairs up to ``half`` have the angle 0."""
    angles = np.zeros((len(positions), half))
    angles[:, : inverse_frequency.size] = np.outer(positions, inverse_frequency)
    return np.hstack([np.cos(angles), np.sin(angles)])


def rope(heads: Doubles, table: npt.NDArray[Any]) -> Doubles:
    """Rotate the pairs ``(head[i], head[half + i])``: a complex number times cosine + i * sine."""
    half = heads.shape[-1] // 2
    angle = table[..., :half].astype(np.float64) + 1j * table[..., half:]
    rotated = (heads[..., :half] + 1j * heads[..., half:]) * angle
    return np.concatenate([rotated.real, rotated.imag], axis=-1)


def round_kv(rows: Floats, kv_type: str) -> Floats:
    """Return rows as a cache of the type "f32", "f16" or "int8" (a scale for each row) gives them back."""
    if kv_type == "int8":
        largest = np.abs(rows).max(axis=-1, keepdims=True)
        inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 1e-30)
        return np.asarray(np.rint(rows * inverse).clip(-127, 127) * (largest / np.float32(127)))
    return rows.astype(np.float16).astype(np.float32) if kv_type == "f16" else rows


def softmax(x: npt.NDArray[Any]) -> Doubles:
    """Return ``exp(x) / sum(exp(x))``."""
    e = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def attend(query: npt.NDArray[Any], keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> Doubles:
    """Return the attention of query heads [..., head_dim] over keys and values [..., n_positions, head_dim]."""
    scores = query @ keys.astype(np.float64, copy=False).swapaxes(-1, -2)
    return np.asarray(softmax(scores) @ values.astype(np.float64, copy=False))


def head_product(matrix: npt.NDArray[Any], scales: Floats | None, hidden: npt.NDArray[Any]) -> Doubles:
    """Return the logits [n_tokens, vocab_size]; each token alone, so that its bits do not depend on the others."""
    numbers = embedding(matrix, scales)
    return np.stack([numbers @ token for token in hidden.astype(np.float64)])


def exp(x: npt.NDArray[Any]) -> Doubles:
    """Return ``exp(x)`` of numbers up to 0, 0 from -64 down: a Taylor series, whose bits no math library changes."""
    clipped = np.maximum(x.astype(np.float64), -64)
    n = np.rint(clipped / _LN_2_HIGH)
    r = clipped - n * _LN_2_HIGH - n * _LN_2_LOW
    series = np.ones_like(r)
    for k in range(13, 0, -1):
        series = 1 + series * r / k
    return np.where(x > -64, np.ldexp(series, n.astype(np.int32)), 0)


_COUNTED = (
    *(embedding, rms_norm, quantize_absmax, ternary_product, rope, round_kv, attend),
    *(gated_relu2, gated_silu, head_product, exp),
)
KERNELS = tuple(f"numpy_{operator.__name__}" for operator in _COUNTED)
"""Ids of the operators that are counted."""

"""Run every kernel on fixed inputs and print a SHA-256 of each one's results, as JSON: equal on every instruction set.

``python -m tests.backends.cpu.isa_digest``, with ``BITNET_ISA`` set.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels import attention, ffn, norm, quantize, residual, rope, softmax, ternary, unpack
from bitnet_numba.backends.cpu.kernels.head import bounds as head_bounds
from bitnet_numba.backends.cpu.kernels.head import full as head
from bitnet_numba.backends.cpu.kernels.head import int8_copy as head_rows
from bitnet_numba.backends.cpu.kernels.head import int8_filter as head_screen
from bitnet_numba.backends.cpu.sampling import CPUSampling
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.model.rope_scaling import inverse_frequencies
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import alone, normal, wide_sums

Array = npt.NDArray[Any]
SHAPES = (32, 96, 640)


def ternary_products(rng: np.random.Generator) -> Iterator[Array]:
    for rows, columns, n_tokens in ((32, 128, 1), (64, 640, 1), (96, 384, 5), (32, 256, 16), (64, 640, 39)):
        weights = rng.integers(-1, 2, (rows, columns)).astype(np.int8)
        q = rng.integers(-128, 128, (1 if n_tokens == 1 else (n_tokens + 7) // 8 * 8, columns)).astype(np.int8)
        out = np.zeros((n_tokens, rows), np.int32)
        packed = ternary.pack(reference.pack_i2s(weights))
        scratch = ternary.gemm_scratch(1, *q.shape)
        ternary.ternary_product(alone(), packed, q, q[:n_tokens].sum(axis=1, dtype=np.int32), out, scratch)
        yield out


def quantized(rng: np.random.Generator) -> Iterator[Array]:
    for magnitude in (1e-42, 1e-3, 1.0, 1e30):
        x, out = normal(rng, 640, magnitude), np.zeros(640, np.int8)
        x[:3] = np.nan, np.inf, -np.inf
        for values in (x, x[16:]):
            yield np.array(quantize.quantize_absmax(values, out[: values.size]), np.float32)
            yield out.copy()


def normalized(rng: np.random.Generator) -> Iterator[Array]:
    for n in SHAPES:
        for magnitude in (1e-30, 1e-2, 1e4, 1e17):
            out = np.zeros(n, np.float32)
            norm.rms_norm(normal(rng, n, magnitude), normal(rng, n), 1e-5, n, out)
            yield out


def turned(rng: np.random.Generator) -> Iterator[Array]:
    for head_dim, half in ((32, 16), (80, 48), (128, 64)):
        table = rope.rope_table(inverse_frequencies(head_dim, 500_000.0), 300, half)
        yield table
        out = np.zeros(2 * half, np.float32)
        for position in (0, 1, 299):
            rope.rope(wide_sums(rng, 2 * half), 3.1e-4, table[position], out)
            yield out.copy()


def normalized_exponentials(rng: np.random.Generator) -> Iterator[Array]:
    for n in (1, 17, 640):
        for magnitude in (1e-3, 1.0, 30.0, 1e4):
            out = np.zeros(n, np.float32)
            softmax.softmax(normal(rng, n, magnitude), out)
            yield out


def random_draws(rng: np.random.Generator) -> Iterator[Array]:
    draw = CPUSampling()
    for n in (1, 17, 5000):
        offset, marks = int(rng.integers(2**63)), np.zeros(n, np.uint8)
        draw.mark_favoured(offset, 1 / 16, marks)
        yield marks
        weights = draw.exp(-np.abs(normal(rng, n, 9.0)), np.zeros(len(draw.kernel_names), np.int64))
        yield weights
        yield from draw.exponential_race(weights.astype(np.float64), None, offset)


def attended(rng: np.random.Generator) -> Iterator[Array]:
    for dtype in (np.float32, np.uint16, np.int8):
        for head_dim in (32, 96, 128):
            n_scales = 704 if dtype == np.int8 else 0
            numbers, scales = np.zeros((2, 704 * head_dim), dtype), np.zeros((2, n_scales), np.float32)
            cache = attention.HeadBlock(*numbers, *scales)
            for position in range(704):
                key, value = normal(rng, head_dim, 10.0 ** rng.integers(-8, 1)), normal(rng, head_dim)
                attention.store_position(cache, position, key, value)
            yield from cache
            for n in (1, 65, 256, 700):
                out = np.zeros(head_dim, np.float32)
                attention.attend(normal(rng, head_dim, 0.5), cache, n, out)
                yield out
            for n_queries, n, group in ((4, 1, 4), (15, 254, 3), (9, 65, 1)):
                together = np.zeros((n_queries, head_dim), np.float32)
                attention.attend_many(normal(rng, (n_queries, head_dim), 0.5), cache, n, group, together)
                yield together


def gated(rng: np.random.Generator) -> Iterator[Array]:
    for n in SHAPES:
        for factor in (1e-9, 1e-4):
            gate_up, out = wide_sums(rng, 2 * n), np.zeros(n, np.float32)
            for kernel in (ffn.gated_relu2, ffn.gated_silu):
                kernel(gate_up, factor, 2.7e-3, out)
                yield out.copy()


def added(rng: np.random.Generator) -> Iterator[Array]:
    for n in SHAPES:
        x, sums, out = normal(rng, n), wide_sums(rng, n), np.zeros(n, np.float32)
        residual.add_scaled(x, sums, 1.7e-4)
        residual.scale(sums, 1.7e-4, out)
        yield x
        yield out


def stored_matrices(rng: np.random.Generator, shape: tuple[int, int]) -> Iterator[tuple[Array, Array]]:
    weights, no_scales = normal(rng, shape, 0.02), np.zeros((shape[0], 0), np.float32)
    yield weights, no_scales
    yield weights.astype(np.float16).view(np.uint16), no_scales
    yield (weights.view(np.uint32) >> 16).astype(np.uint16).view(np.int16), no_scales
    for group in (16, 32):
        yield rng.integers(-128, 128, shape).astype(np.int8), np.abs(normal(rng, (shape[0], shape[1] // group), 1e-3))


def logits(rng: np.random.Generator) -> Iterator[Array]:
    for vocab_size, hidden_size in ((1, 32), (150, 672)):
        for matrix, scales in stored_matrices(rng, (vocab_size, hidden_size)):
            out, row = np.zeros((2, vocab_size), np.float32), np.zeros(hidden_size, np.float32)
            head.head_product(alone(), matrix, scales, normal(rng, (2, hidden_size)), out)
            head.embedding_row(matrix, scales, vocab_size - 1, row)
            yield out
            yield row


def screened_logits(rng: np.random.Generator) -> Iterator[Array]:
    for matrix, scales in stored_matrices(rng, (150, 672)):
        if scales.shape[1]:
            continue
        screen = np.zeros(head_rows.screen_shape(150, 672), np.uint32)
        head_rows.quantize_rows(alone(), matrix, screen)
        yield np.nan_to_num(screen.view(np.float32)[:, : head_rows.HEADER], nan=-1.0)
        yield screen[:, head_rows.HEADER :]
        state = head_bounds.new_screen_state(150, 672, 2, 1)
        asked = head_screen.HeadRequest(
            np.array([1, 5]), np.array([np.inf, 0.1]), np.zeros((2, 0), np.uint8), np.ones(2, np.float32)
        )
        out = np.zeros((2, 150), np.float32)
        head_screen.screened_head(alone(), matrix, screen, normal(rng, (2, 672)), asked, state, out)
        yield state.lower[:, :150]
        yield state.upper[:, :150]
        yield state.left_out
        yield out.copy()
        head_screen.approximate_head(alone(), matrix, screen, normal(rng, (2, 672)), state, out)
        yield out


def every_half(_: np.random.Generator) -> Iterator[Array]:
    halves = np.arange(2**16).astype(np.uint16)
    numbers = np.resize(halves[~np.isnan(halves.view(np.float16))], (1990, 32))
    row = np.zeros(32, np.float32)
    for token in range(len(numbers)):
        head.embedding_row(numbers, np.zeros((len(numbers), 0), np.float32), token, row)
        yield row.copy()


def unpacked(rng: np.random.Generator) -> Iterator[Array]:
    packed = rng.integers(0, 256, 32 * 300).astype(np.uint8)
    for dtype in (np.int8, np.float32):
        table = unpack.value_table(dtype, 1.0 if dtype is np.int8 else 0.3)
        out = np.zeros(4 * packed.size, dtype)
        unpack.unpack_lut(alone(), packed, table, out)
        yield out


ROOMS: tuple[Callable[[np.random.Generator], Iterator[Array]], ...] = (
    ternary_products,
    quantized,
    normalized,
    turned,
    normalized_exponentials,
    random_draws,
    attended,
    gated,
    added,
    logits,
    screened_logits,
    every_half,
    unpacked,
)


def digests() -> dict[str, str]:
    """Return a SHA-256 of all that each room's kernels compute."""
    found = {}
    for room in ROOMS:
        state = hashlib.sha256()
        for array in room(np.random.default_rng(2024)):
            state.update(f"{array.dtype}{array.shape}".encode())
            state.update(array.tobytes())
        found[room.__name__] = state.hexdigest()
    return found


if __name__ == "__main__":
    json.dump({"isa": cpu.isa(), "digests": digests()}, sys.stdout)

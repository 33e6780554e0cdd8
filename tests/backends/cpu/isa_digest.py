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

from bitnet_numba.backends.cpu.kernels import attention, ffn, norm, quantize, residual, rope, softmax, ternary
from bitnet_numba.backends.cpu.kernels.attention.store import store_position
from bitnet_numba.backends.cpu.kernels.head.bounds import new_filter_state
from bitnet_numba.backends.cpu.kernels.head.full import embedding_row
from bitnet_numba.backends.cpu.kernels.head.int8_copy import HEADER_LINES
from bitnet_numba.backends.cpu.kernels.head.int8_filter import CandidateQueries
from bitnet_numba.backends.cpu.sampling import CPUSampling
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.model.rope_scaling import inverse_frequencies
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import normal, wide_integers
from tests.backends.cpu.kernels.running import (
    attend,
    attend_many,
    candidate_head,
    full_head,
    int8_copy_of,
    ternary_product,
)

Array = npt.NDArray[Any]
SHAPES = (32, 96, 640)


def ternary_products(rng: np.random.Generator) -> Iterator[Array]:
    for rows, columns, n_tokens in ((32, 128, 1), (64, 640, 1), (96, 384, 5), (32, 256, 16), (64, 640, 39)):
        weights = rng.integers(-1, 2, (rows, columns)).astype(np.int8)
        q = rng.integers(-128, 128, (1 if n_tokens == 1 else (n_tokens + 7) // 8 * 8, columns)).astype(np.int8)
        yield ternary_product(ternary.pack(reference.pack_i2s(weights)), q, n_tokens)


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
            norm.rms_norm(normal(rng, n, magnitude), normal(rng, n), np.float32(1e-5), np.float32(n), out)
            yield out


def rotated(rng: np.random.Generator) -> Iterator[Array]:
    for head_dim, half in ((32, 16), (80, 48), (128, 64)):
        table = rope.rope_table(inverse_frequencies(head_dim, 500_000.0), 300, half)
        yield table
        out = np.zeros(2 * half, np.float32)
        for position in (0, 1, 299):
            rope.rope(wide_integers(rng, 2 * half), np.float32(3.1e-4), table[position], out)
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


def attention_outputs(rng: np.random.Generator) -> Iterator[Array]:
    for dtype in (np.float32, np.uint16, np.int8):
        for head_dim in (32, 96, 128):
            n_scales = 704 if dtype == np.int8 else 0
            numbers, scales = np.zeros((2, 704 * head_dim), dtype), np.zeros((2, n_scales), np.float32)
            cache = attention.HeadBlock(*numbers, *scales)
            for position in range(704):
                key, value = normal(rng, head_dim, 10.0 ** rng.integers(-8, 1)), normal(rng, head_dim)
                store_position(key, value, position, cache)
            yield from cache
            for n in (1, 65, 256, 700):
                yield attend(normal(rng, head_dim, 0.5), cache, n)
            for n_queries, n, group in ((4, 1, 4), (15, 254, 3), (9, 65, 1)):
                yield attend_many(normal(rng, (n_queries, head_dim), 0.5), cache, n, group)


def gated(rng: np.random.Generator) -> Iterator[Array]:
    for n in SHAPES:
        for factor in (1e-9, 1e-4):
            gate_up, out = wide_integers(rng, 2 * n), np.zeros(n, np.float32)
            for kernel in (ffn.gated_relu2, ffn.gated_silu):
                kernel(gate_up, np.float32(factor), np.float32(2.7e-3), out)
                yield out.copy()


def added(rng: np.random.Generator) -> Iterator[Array]:
    for n in SHAPES:
        x, acc, out = normal(rng, n), wide_integers(rng, n), np.zeros(n, np.float32)
        residual.add_scaled(acc, np.float32(1.7e-4), x)
        residual.scale(acc, np.float32(1.7e-4), out)
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
            row = np.zeros(hidden_size, np.float32)
            embedding_row(matrix, scales, vocab_size - 1, row)
            yield full_head(matrix, scales, normal(rng, (2, hidden_size)))
            yield row


def candidate_logits(rng: np.random.Generator) -> Iterator[Array]:
    for matrix, scales in stored_matrices(rng, (150, 672)):
        if scales.shape[1]:
            continue
        copy = int8_copy_of(matrix)
        yield np.nan_to_num(copy.view(np.float32)[:, :HEADER_LINES], nan=-1.0)
        yield copy[:, HEADER_LINES:]
        state = new_filter_state(150, 672, 2, 1)
        queries = CandidateQueries(
            np.array([1, 5]), np.array([np.inf, 0.1]), np.zeros((2, 0), np.uint8), np.ones(2, np.float32)
        )
        logits = candidate_head(matrix, copy, normal(rng, (2, 672)), queries, state)
        yield state.lower[:, :150]
        yield state.upper[:, :150]
        yield state.tail_mass
        yield logits


def every_half(_: np.random.Generator) -> Iterator[Array]:
    halves = np.arange(2**16).astype(np.uint16)
    numbers = np.resize(halves[~np.isnan(halves.view(np.float16))], (1990, 32))
    row = np.zeros(32, np.float32)
    for token in range(len(numbers)):
        embedding_row(numbers, np.zeros((len(numbers), 0), np.float32), token, row)
        yield row.copy()


SECTIONS: tuple[Callable[[np.random.Generator], Iterator[Array]], ...] = (
    ternary_products,
    quantized,
    normalized,
    rotated,
    normalized_exponentials,
    random_draws,
    attention_outputs,
    gated,
    added,
    logits,
    candidate_logits,
    every_half,
)


def digests() -> dict[str, str]:
    """Return a SHA-256 of all that each section's kernels compute."""
    found = {}
    for section in SECTIONS:
        state = hashlib.sha256()
        for array in section(np.random.default_rng(2024)):
            state.update(f"{array.dtype}{array.shape}".encode())
            state.update(array.tobytes())
        found[section.__name__] = state.hexdigest()
    return found


if __name__ == "__main__":
    json.dump({"isa": cpu.isa(), "digests": digests()}, sys.stdout)

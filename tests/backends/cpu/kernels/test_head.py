"""The output head and the embedding against their twins, in every storage format."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.head.full import HEAD_ROWS_PER_TASK, embedding_row
from bitnet_numba.backends.numpy import operators as reference
from tests.backends.cpu.kernels.inputs import ROUNDING, SEEDS, UNDERFLOW, assert_within, normal
from tests.backends.cpu.kernels.running import SIZES, full_head
from tests.backends.cpu.kernels.stored import stored

FORMATS = ["f32", "f16", "bf16", "q8_0", "q6_k"]
HIDDEN = st.integers(1, 12).map(lambda blocks: 32 * blocks)
MAGNITUDES = st.sampled_from([1e-40, 1e-6, 0.02, 1.0, 1e4])  # of weights; from 1e-6 on all formats hold them


@pytest.mark.parametrize("form", FORMATS)
@given(vocab_size=st.integers(1, 150), hidden_size=HIDDEN, n_tokens=st.integers(1, 3), magnitude=MAGNITUDES, seed=SEEDS)
def test_matches_its_twin(
    form: str, vocab_size: int, hidden_size: int, n_tokens: int, magnitude: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix, scales = stored(rng, form, vocab_size, hidden_size, magnitude)
    hidden = normal(rng, (n_tokens, hidden_size))
    out = full_head(matrix, scales, hidden)
    # hidden_size / 32 fused steps of each of two sums, their sum, 4 levels of the tree: of the terms' magnitudes
    terms = np.abs(hidden.astype(np.float64)) @ np.abs(reference.embedding(matrix, scales)).T
    bound = (hidden_size / 32 + 6) * ROUNDING * terms + hidden_size * UNDERFLOW
    assert_within(out, reference.head_product(matrix, scales, hidden), bound)


@pytest.mark.parametrize("form", FORMATS)
@given(hidden_size=HIDDEN, magnitude=MAGNITUDES, seed=SEEDS)
def test_an_embedding_row_is_exact(form: str, hidden_size: int, magnitude: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, scales = stored(rng, form, 5, hidden_size, magnitude)
    out = np.empty(hidden_size, np.float32)
    for token in range(5):
        embedding_row(matrix, scales, token, out)
        np.testing.assert_array_equal(out, reference.embedding(matrix, scales)[token])


def test_equal_weights_give_equal_bits_in_every_format() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-8, 8, (70, 96)).astype(np.float32)
    none, ones = np.zeros((70, 0), np.float32), np.ones((70, 6), np.float32)
    same = [
        (weights, none),
        (weights.astype(np.float16).view(np.uint16), none),
        ((weights.view(np.uint32) >> 16).astype(np.uint16).view(np.int16), none),
        (weights.astype(np.int8), ones),
    ]
    hidden = normal(rng, (2, 96))
    logits = np.array([full_head(matrix, scales, hidden) for matrix, scales in same])
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[0], logits.shape))


@pytest.mark.parametrize("form", FORMATS)
def test_threads_and_tokens_change_no_bit(form: str) -> None:
    rng = np.random.default_rng(1)
    vocab_size = 5 * HEAD_ROWS_PER_TASK + 7
    matrix, scales = stored(rng, form, vocab_size, 96)
    hidden = normal(rng, (9, 96))  # twice four together, and one
    each = np.concatenate([full_head(matrix, scales, hidden[token : token + 1]) for token in range(9)])
    for n_threads in SIZES:
        out = full_head(matrix, scales, hidden, n_threads)
        np.testing.assert_array_equal(out.view(np.uint32), each.view(np.uint32))

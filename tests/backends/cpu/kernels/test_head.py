"""The output head and the embedding against their twins, in every storage format."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.head.full import ROWS, embedding_row, head_product
from bitnet_numba.backends.numpy import operators as reference
from tests.backends.cpu.kernels.inputs import ROUNDING, SEEDS, UNDERFLOW, Floats, alone, assert_within, normal
from tests.backends.cpu.kernels.stored import stored
from tests.backends.cpu.kernels.teams import SIZES, team_of

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
    out = np.empty((n_tokens, vocab_size), np.float32)
    head_product(alone(), matrix, scales, hidden, out)
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
    logits = np.empty((len(same), 2, 70), np.float32)
    for (matrix, scales), out in zip(same, logits, strict=True):
        head_product(alone(), matrix, scales, hidden, out)
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[0], logits.shape))


@pytest.mark.parametrize("form", FORMATS)
def test_threads_and_tokens_change_no_bit(form: str) -> None:
    rng = np.random.default_rng(1)
    vocab_size = 5 * ROWS + 7
    matrix, scales = stored(rng, form, vocab_size, 96)
    hidden = normal(rng, (9, 96))  # twice four together, and one
    each = np.empty((9, vocab_size), np.float32)
    for token in range(9):
        head_product(alone(), matrix, scales, hidden[token : token + 1], each[token : token + 1])
    for n_threads in SIZES:
        out = np.empty_like(each)
        with team_of(n_threads) as pool:
            pool.run(lambda ctx, out=out: head_product(ctx, matrix, scales, hidden, out))
        np.testing.assert_array_equal(out.view(np.uint32), each.view(np.uint32))


VALID: dict[str, Any] = {
    "matrix": np.zeros((3, 64), np.uint16),
    "scales": np.zeros((3, 0), np.float32),
    "hidden": np.zeros((2, 64), np.float32),
    "out": np.zeros((2, 3), np.float32),
}
WRONG_MATRICES = [
    ("matrix", np.zeros(64, np.uint16)),
    ("scales", np.zeros(3, np.float32)),
    ("matrix", np.zeros((3, 48), np.uint16)),
    ("matrix", np.zeros((3, 0), np.uint16)),
    ("matrix", np.zeros((3, 64), np.float64)),
    ("matrix", np.zeros((3, 64), np.uint8)),
    ("matrix", np.zeros((64, 3), np.uint16).T),
    ("scales", np.zeros((3, 2), np.float32)),
    ("scales", np.zeros((4, 0), np.float32)),
    ("scales", np.zeros((3, 0), np.float64)),
]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *WRONG_MATRICES,
        ("hidden", np.zeros((2, 32), np.float32)),
        ("hidden", np.zeros((2, 64), np.float64)),
        ("hidden", np.zeros(64, np.float32)),
        ("hidden", np.zeros((), np.float32)),
        ("hidden", np.zeros((64, 2), np.float32).T),
        ("out", np.zeros((1, 3), np.float32)),
        ("out", np.zeros((2, 4), np.float32)),
        ("out", np.zeros((3, 2), np.float32).T),
        ("out", np.zeros((2, 3), np.float64)),
    ],
)
def test_head_refuses(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        head_product(alone(), **{**VALID, name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *WRONG_MATRICES,
        ("token", -1),
        ("token", 3),
        ("out", np.zeros(32, np.float32)),
        ("out", np.zeros(64, np.float16)),
        ("out", np.zeros(128, np.float32)[::2]),
    ],
)
def test_embedding_refuses(name: str, wrong: Any) -> None:
    valid = {"matrix": VALID["matrix"], "scales": VALID["scales"], "token": 0, "out": np.zeros(64, np.float32)}
    with pytest.raises(ValueError, match=f"^{name}: "):
        embedding_row(**{**valid, name: wrong})


@pytest.mark.parametrize(
    "scales", [np.zeros((3, 0), np.float32), np.ones((3, 8), np.float32), np.ones((3, 3), np.float32)]
)
def test_refuses_scales_that_do_not_divide_int8(scales: Floats) -> None:
    with pytest.raises(ValueError, match=r"^scales: "):
        embedding_row(np.zeros((3, 64), np.int8), scales, 0, np.zeros(64, np.float32))

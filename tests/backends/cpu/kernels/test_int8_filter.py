"""The int8 candidate filter against the full head: equal bits where they can matter, and bounds that nothing breaks."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.head.bounds import (
    FilterState,
    bound_logits,
    new_filter_state,
    quantize_hidden_states,
)
from bitnet_numba.backends.cpu.kernels.head.int8_copy import CORRECTION, ERROR, HEADER_LINES, NORM, SCALE
from bitnet_numba.backends.cpu.kernels.head.int8_filter import BACKOFF_CALLS, CandidateQueries
from bitnet_numba.backends.cpu.kernels.registry import new_counts
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import SEEDS, Floats, alone, normal
from tests.backends.cpu.kernels.running import SIZES, candidate_head, full_head, int8_copy_of
from tests.backends.cpu.kernels.stored import Matrix, stored_floats

FORMATS = ["f32", "f16", "bf16"]
HIDDEN = st.integers(1, 12).map(lambda blocks: 32 * blocks)
VOCAB = st.sampled_from([1, 15, 16, 31, 33, 200])
INFINITY = float("inf")


# ---- helpers ---------------------------------------------------------------------------------------------------------
def full(matrix: Matrix, hidden: Floats) -> Floats:
    return full_head(matrix, np.zeros((len(matrix), 0), np.float32), hidden)


def queries_of(
    n_tokens: int = 1, n_best: int = 1, margin: float = INFINITY, always: Any = None, beta: float = -1
) -> CandidateQueries:
    marked = np.zeros((n_tokens, 0), np.uint8) if always is None else np.asarray(always, np.uint8)
    return CandidateQueries(
        np.full(n_tokens, n_best), np.full(n_tokens, margin), marked, np.full(n_tokens, beta, np.float32)
    )


def filtered(matrix: Matrix, hidden: Floats, queries: CandidateQueries) -> tuple[Floats, FilterState]:
    state = new_filter_state(*matrix.shape, len(hidden), 1)
    return candidate_head(matrix, int8_copy_of(matrix), hidden, queries, state), state


def bounds(matrix: Matrix, hidden: Floats) -> tuple[Floats, Floats]:
    _, state = filtered(matrix, hidden, queries_of(len(hidden)))
    return state.lower[:, : len(matrix)], state.upper[:, : len(matrix)]


def assert_bounded(matrix: Matrix, hidden: Floats) -> tuple[Floats, Floats]:
    lower, upper = bounds(matrix, hidden)
    exact = full(matrix, hidden)
    assert (exact >= lower).all()
    assert (exact <= upper).all()
    return exact - lower, upper - exact


def errors_of(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return what each row loses in its int8 copy."""
    scales, codes, _, _ = reference.quantize_rows(matrix)
    return reference.embedding(matrix, np.zeros((len(matrix), 0), np.float32)) - scales[:, None].astype(float) * codes


# ---- the int8 copy ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMATS)
@given(vocab_size=VOCAB, hidden_size=HIDDEN, magnitude=st.sampled_from([1e-33, 1e-6, 0.02, 1e4]), seed=SEEDS)
def test_the_copy_matches_its_twin(form: str, vocab_size: int, hidden_size: int, magnitude: float, seed: int) -> None:
    weights = normal(np.random.default_rng(seed), (vocab_size, hidden_size), magnitude)
    matrix = stored_floats(weights, form)
    copy = int8_copy_of(matrix)
    lines, floats = (copy.view(dtype).transpose(0, 2, 1).reshape(-1, copy.shape[1]) for dtype in ("i4", "f4"))
    found = np.ascontiguousarray(lines[:vocab_size, HEADER_LINES:]).view(np.int8)
    scales, codes, norms, errors = reference.quantize_rows(matrix)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(floats[:vocab_size, SCALE], scales)
    np.testing.assert_array_equal(lines[:vocab_size, CORRECTION], -63 * codes.sum(axis=1, dtype=np.int64))
    for line, true in ((NORM, norms), (ERROR, errors)):
        stated = floats[:vocab_size, line].astype(np.float64)
        assert (stated >= true).all()
        assert (stated <= true * (1 + 1e-5) + 2e-21).all()  # squares below the smallest float32 count as one of it
    assert not lines[vocab_size:, HEADER_LINES:].any()
    assert np.isnan(floats[vocab_size:, [SCALE, ERROR]]).all()


@pytest.mark.parametrize("n_threads", SIZES)
def test_threads_change_no_bit_of_the_copy(n_threads: int) -> None:
    matrix = stored_floats(normal(np.random.default_rng(0), (333, 64)), "f16")
    np.testing.assert_array_equal(int8_copy_of(matrix, n_threads), int8_copy_of(matrix))


# ---- the bounds ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMATS)
@given(hidden_size=HIDDEN, weight=st.sampled_from([1e-7, 0.02, 1e4]), state=st.sampled_from([1e-42, 1e-20, 1.0, 1e17]))
def test_random_logits_lie_within_their_bounds(form: str, hidden_size: int, weight: float, state: float) -> None:
    rng = np.random.default_rng(hidden_size)
    assert_bounded(stored_floats(normal(rng, (70, hidden_size), weight), form), normal(rng, (3, hidden_size), state))


@pytest.mark.parametrize("form", FORMATS)
@given(hidden_size=HIDDEN, seed=SEEDS, is_signs=st.booleans(), is_negated=st.booleans())
def test_hidden_states_along_a_rows_error(
    form: str, hidden_size: int, seed: int, is_signs: bool, is_negated: bool
) -> None:
    """The worst case of the bound: it must hold, and it must be nearly reached."""
    matrix = stored_floats(normal(np.random.default_rng(seed), (33, hidden_size), 0.02), form)
    errors = errors_of(matrix)
    hidden = np.sign(errors) if is_signs else errors / np.abs(errors).max(axis=1, keepdims=True)
    hidden = (-hidden if is_negated else hidden).astype(np.float32)
    above_lower, below_upper = assert_bounded(matrix, hidden)
    near = np.diagonal(above_lower if is_negated else below_upper)
    width = np.diagonal(above_lower + below_upper)
    assert is_signs or (near < 0.05 * width).all()


@given(hidden_size=HIDDEN, seed=SEEDS, power=st.integers(1, 30))
def test_hidden_states_with_an_outlier(hidden_size: int, seed: int, power: int) -> None:
    """One large element leaves the others no bits: the hidden state's own error is what counts."""
    rng = np.random.default_rng(seed)
    hidden = normal(rng, (3, hidden_size))
    hidden[:, 5] = 2.0**power
    matrix = rng.integers(-127, 128, (40, hidden_size)).astype(np.float32)
    matrix[:, 0] = 127  # so that codes are the numbers themselves
    assert not errors_of(matrix).any()
    matrix[:, 5] = 0
    assert_bounded(matrix, hidden)
    along = (hidden - np.float32(2.0**power / 8064) * np.rint(hidden * np.float32(8064 / 2.0**power))).astype(
        np.float32
    )
    assert_bounded(np.rint(127 * along / np.abs(along).max()).astype(np.float32), hidden)


@given(seed=SEEDS, hidden_size=st.sampled_from([32, 2560, 16384]), is_drifting=st.booleans())
def test_only_the_roundings_of_the_full_head_are_left(seed: int, hidden_size: int, is_drifting: bool) -> None:
    """Whole numbers have exact copies; equal ones make sums that are rounded the same way at each step."""
    rng = np.random.default_rng(seed)
    low = 120 if is_drifting else -127
    matrix = np.repeat(rng.integers(low, 128, (20, 1)), hidden_size, axis=1).astype(np.float32)
    hidden = np.repeat(rng.integers(8000 if is_drifting else -8064, 8065, (4, 1)), hidden_size, axis=1)
    matrix[:, 0], hidden[:, 0] = 127, 8064
    assert not errors_of(matrix).any()
    assert_bounded(matrix, hidden.astype(np.float32))


@given(seed=SEEDS)
def test_rows_of_many_magnitudes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for magnitude in (1e-20, 1.0, 1e18):
        weights = normal(rng, (64, 96)) * np.exp2(rng.integers(-140, 40, (64, 96))).astype(np.float32)
        assert_bounded(weights, normal(rng, (2, 96), magnitude))


@pytest.mark.parametrize("form", FORMATS)
@given(hidden_size=HIDDEN, seed=SEEDS, power=st.integers(0, 20))
def test_logits_lie_within_the_bounds_of_one_byte(form: str, hidden_size: int, seed: int, power: int) -> None:
    """Hidden states along rows' errors and with outliers, and along what the byte of another hidden state loses."""
    rng = np.random.default_rng(seed)
    weights = normal(rng, (70, hidden_size), 0.02)
    hidden = normal(rng, (16, hidden_size))
    hidden[:, 3] *= 2.0**power
    step = np.abs(hidden).max(axis=1, keepdims=True) / 8064 * 127
    weights[:16] = 0.02 * (hidden - step * np.rint(hidden / step)) / step  # what the bound of one byte is about
    matrix = stored_floats(weights, form)
    errors = errors_of(matrix)[16:20]
    hidden[12:] = errors / np.abs(errors).max(axis=1, keepdims=True)
    state, copy = new_filter_state(*matrix.shape, 16, 1), int8_copy_of(matrix)
    quantize_hidden_states(alone(), new_counts(), hidden, state)
    bound_logits(alone(), copy, state.one_byte, np.zeros((16, 0), np.uint8), state)
    exact = full(matrix, hidden)
    widths = []
    for codes in (state.one_byte, state.two_bytes):
        bound_logits(alone(), copy, codes, np.zeros((16, 0), np.uint8), state)
        lower, upper = state.lower[:, :70], state.upper[:, :70]
        assert ((lower <= exact) & (exact <= upper)).all()
        widths.append(upper - lower)
    assert (widths[1] < widths[0]).all()


def test_bounds_are_tight_enough_to_be_of_use() -> None:
    rng = np.random.default_rng(0)
    matrix = stored_floats(normal(rng, (2000, 640), 0.02), "f16")
    hidden = normal(rng, (1, 640))
    lower, upper = bounds(matrix, hidden)
    assert (upper - lower).max() < full(matrix, hidden).std()
    _, state = filtered(matrix, hidden, queries_of())
    assert state.n_candidates[0] < 100


# ---- what is computed ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMATS)
@given(
    vocab_size=st.sampled_from([1, 16, 33, 500, 1000]),
    n_tokens=st.integers(1, 3),
    n_best=st.sampled_from([0, 1, 2, 7, 40, 2000]),
    margin=st.sampled_from([0.0, 0.5, 3.0, INFINITY]),
    always=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    step=st.sampled_from([0.0, 0.02]),
    seed=SEEDS,
)
def test_needed_logits_have_the_bits_of_the_full_head(
    form: str, vocab_size: int, n_tokens: int, n_best: int, margin: float, always: float, step: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = normal(rng, (vocab_size, 64), 0.02)
    matrix = stored_floats((np.rint(weights / step) * step).astype(np.float32) if step else weights, form)  # with ties
    hidden = normal(rng, (n_tokens, 64), 5)
    marked = rng.random((n_tokens, vocab_size)) < always
    out, state = filtered(matrix, hidden, queries_of(n_tokens, n_best, margin, marked if always else None))
    exact = full(matrix, hidden)
    for token in range(n_tokens):
        computed = out[token] != -np.inf
        assert not (reference.needed_logits(exact[token], n_best, margin, marked[token]) & ~computed).any()
        np.testing.assert_array_equal(out[token, computed], exact[token, computed])
        assert state.n_candidates[token] == computed.sum()


@given(
    vocab_size=st.sampled_from([1, 16, 33, 500, 1000]),
    n_tokens=st.sampled_from([1, 3, 10]),
    n_best=st.sampled_from([0, 1, 20]),
    margin=st.sampled_from([0.0, 1.0, 6.0]),
    beta=st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e30]),
    always=st.sampled_from([0.0, 0.05]),
    seed=SEEDS,
)
def test_tail_mass_bounds_the_excluded_logits(
    vocab_size: int, n_tokens: int, n_best: int, margin: float, beta: float, always: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix, hidden = normal(rng, (vocab_size, 64), 0.02), normal(rng, (n_tokens, 64), 20)
    marked = rng.random((n_tokens, vocab_size)) < always
    out, state = filtered(matrix, hidden, queries_of(n_tokens, n_best, margin, marked if always else None, beta))
    exact = full(matrix, hidden).astype(np.float64)
    for token in range(n_tokens):
        is_excluded, threshold = out[token] == -np.inf, float(state.thresholds[token])
        assert (exact[token, is_excluded] < threshold).all()
        weights = np.exp(beta * (exact[token, is_excluded] - threshold))
        widths = (state.upper - state.lower)[token, :vocab_size][is_excluded]
        bound = state.tail_mass[token].sum(dtype=np.float64)
        assert weights.sum() <= bound * (1 + 1e-4) + vocab_size * np.exp(-64.0)
        highest = np.minimum(exact[token, is_excluded] + widths - threshold, 0)
        assert bound <= np.exp(beta * highest).sum() * (1 + 1e-4)


def test_tail_mass_is_0_where_nobody_asks_or_nothing_is_excluded() -> None:
    rng = np.random.default_rng(11)
    matrix, hidden = normal(rng, (500, 64), 0.02), normal(rng, (2, 64), 20)
    assert not filtered(matrix, hidden, queries_of(2))[1].tail_mass.any()
    with_tail = queries_of(2, margin=1.0, beta=1.0)
    assert filtered(matrix, hidden, with_tail)[1].tail_mass.any()
    assert not filtered(matrix, hidden, queries_of(2, n_best=600, beta=1.0))[1].tail_mass.any()


@given(seed=SEEDS, n_tokens=st.integers(9, 16), peaked=st.integers(0, 16), n_best=st.sampled_from([1, 5, 60]))
def test_many_tokens_are_bounded_with_one_byte_where_it_is_enough(
    seed: int, n_tokens: int, peaked: int, n_best: int
) -> None:
    """In the first ones a logit stands out, which one byte shows; the others need both."""
    rng = np.random.default_rng(seed)
    matrix = stored_floats(normal(rng, (3000, 64), 0.02), "f16")
    hidden = normal(rng, (n_tokens, 64))
    favoured = rng.choice(3000, n_tokens, replace=False)
    hidden[:peaked] += 200 * matrix.view(np.float16)[favoured[:peaked]].astype(np.float32)
    always = rng.random((n_tokens, 3000)) < 0.001
    exact, queries = full(matrix, hidden), queries_of(n_tokens, n_best, always=always)
    state, copy = new_filter_state(3000, 64, 16, 1), int8_copy_of(matrix)
    for _ in range(2):  # with bounds from one byte, and perhaps without
        out = candidate_head(matrix, copy, hidden, queries, state)
        for token in range(n_tokens):
            computed = out[token] != -np.inf
            assert not (reference.needed_logits(exact[token], n_best, INFINITY, always[token]) & ~computed).any()
            np.testing.assert_array_equal(out[token, computed], exact[token, computed])
            assert state.n_candidates[token] == computed.sum()
    assert (state.backoff[0] > 0) == (2 * state.is_pending[:n_tokens].sum() > n_tokens)


@pytest.mark.parametrize(("n_best", "pending"), [(60, []), (400, [5])])
def test_only_many_candidates_are_bounded_again_with_two_bytes(n_best: int, pending: list[int]) -> None:
    """Of 3,000 rows, up to 375 of all tokens together are computed, though 47 of one token are many."""
    rng = np.random.default_rng(9)
    matrix = stored_floats(normal(rng, (3000, 64), 0.02), "f16")
    hidden = normal(rng, (16, 64)) + 200 * matrix.view(np.float16)[:16].astype(np.float32)
    queries = queries_of(16)
    queries.n_best[5] = n_best
    out, state = filtered(matrix, hidden, queries)
    assert np.flatnonzero(state.is_pending[:16]).tolist() == pending
    assert state.n_candidates[5] >= n_best > 47
    exact = full(matrix, hidden)
    computed = out != -np.inf
    np.testing.assert_array_equal(out[computed], exact[computed])
    assert (computed.sum(axis=1) == state.n_candidates[:16]).all()
    assert (np.sort(out[5])[-n_best:] == np.sort(exact[5])[-n_best:]).all()


def test_one_byte_backs_off_where_it_is_of_no_use() -> None:
    rng = np.random.default_rng(8)
    matrix, hidden = stored_floats(normal(rng, (3000, 64), 0.02), "f16"), normal(rng, (16, 64))
    state, copy = new_filter_state(3000, 64, 16, 1), int8_copy_of(matrix)

    def backoff(n_best: int) -> int:
        candidate_head(matrix, copy, hidden, queries_of(16, n_best), state)
        return int(state.backoff[0])

    assert [backoff(1) for _ in range(2)] == [0, 0]
    expected = [BACKOFF_CALLS, *range(BACKOFF_CALLS - 1, -1, -1), BACKOFF_CALLS]
    assert [backoff(300) for _ in range(BACKOFF_CALLS + 2)] == expected


@given(seed=SEEDS)
def test_equal_rows_are_all_candidates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row, others = normal(rng, (1, 96), 0.02), normal(rng, (100, 96), 0.001)
    places = rng.choice(100, 5, replace=False)
    others[places] = row
    hidden = row / np.abs(row).max()
    out, _ = filtered(others, hidden, queries_of())
    assert np.argmax(out) == places.min()
    assert (out[0, places] == out.max()).all()


def test_where_all_rows_are_alike_all_are_computed() -> None:
    rng = np.random.default_rng(3)
    matrix = np.repeat(normal(rng, (1, 64)), 300, axis=0)
    matrix[:100] *= -1
    hidden = matrix[200:201].copy()
    out, state = filtered(matrix, hidden, queries_of())
    assert state.n_candidates[0] == 300
    np.testing.assert_array_equal(out, full(matrix, hidden))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_hidden_states_that_are_not_finite_get_the_full_head(value: float) -> None:
    rng = np.random.default_rng(4)
    matrix, hidden = normal(rng, (50, 64)), normal(rng, (1, 64))
    hidden[0, 17] = value
    out, state = filtered(matrix, hidden, queries_of())
    assert state.n_candidates[0] == 50
    expected = full(matrix, hidden)
    np.testing.assert_array_equal(out, np.where(expected == -INFINITY, np.nan, expected))
    assert not np.isfinite(out).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_rows_that_are_not_finite_or_overflow_are_always_computed(value: float) -> None:
    rng = np.random.default_rng(5)
    matrix, hidden = normal(rng, (300, 64), 0.02), np.abs(normal(rng, (1, 64), 100))
    matrix[7, 5:9] = value
    exact, (out, state) = full(matrix, hidden), filtered(matrix, hidden, queries_of())
    np.testing.assert_array_equal(out[0, 7], np.nan if exact[0, 7] == -INFINITY else exact[0, 7])
    assert out[0, 7] == INFINITY or np.isnan(out[0, 7])
    others = np.delete(exact[0], 7)
    assert others.max() in out
    assert state.n_candidates[0] < 100


def test_sums_that_overflow_on_their_way_are_computed() -> None:
    matrix = np.full((300, 384), 1e20, np.float32)
    matrix[:, 192:] *= -1  # the true sum is 0, but the first half of it is beyond float32
    matrix[1:] *= np.float32(1e-10)
    hidden = np.full((1, 384), 1e18, np.float32)
    exact, (out, _) = full(matrix, hidden), filtered(matrix, hidden, queries_of())
    assert exact[0, 0] == INFINITY
    assert out[0, 0] == INFINITY


@pytest.mark.parametrize("n_threads", SIZES)
def test_threads_change_no_bit(n_threads: int) -> None:
    rng = np.random.default_rng(6)
    matrix, hidden = stored_floats(normal(rng, (1000, 96), 0.02), "bf16"), normal(rng, (3, 96))
    copy = int8_copy_of(matrix)
    for n_tokens in (1, 3):
        queries = queries_of(n_tokens, n_best=5)
        expected, alone_state = filtered(matrix, hidden[:n_tokens], queries)
        state = new_filter_state(1000, 96, n_tokens, n_threads)
        out = candidate_head(matrix, copy, hidden[:n_tokens], queries, state, n_threads)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(state.n_candidates[:n_tokens], alone_state.n_candidates[:n_tokens])

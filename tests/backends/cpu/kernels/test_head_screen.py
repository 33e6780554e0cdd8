"""The screened head against the full pass: the same bits wherever they can matter, and bounds that nothing breaks."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.head.bounds import ScreenState, begin_worker, new_screen_state, screen_worker
from bitnet_numba.backends.cpu.kernels.head.full import head_product
from bitnet_numba.backends.cpu.kernels.head.int8_copy import (
    CORRECTION,
    ERROR,
    HEADER,
    NORM,
    SCALE,
    quantize_rows,
    screen_shape,
)
from bitnet_numba.backends.cpu.kernels.head.int8_filter import REST, HeadRequest, approximate_head, screened_head
from bitnet_numba.backends.cpu.kernels.jit import new_counts
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import SEEDS, Floats, alone, normal
from tests.backends.cpu.kernels.stored import Matrix, stored_floats
from tests.backends.cpu.kernels.teams import SIZES, team_of

FORMATS = ["f32", "f16", "bf16"]
HIDDEN = st.integers(1, 12).map(lambda blocks: 32 * blocks)
VOCAB = st.sampled_from([1, 15, 16, 31, 33, 200])
INFINITY = float("inf")


# ---- helpers ---------------------------------------------------------------------------------------------------------
def screen_of(matrix: Matrix) -> npt.NDArray[np.uint32]:
    screen = np.zeros(screen_shape(*matrix.shape), np.uint32)
    quantize_rows(alone(), matrix, screen)
    return screen


def full(matrix: Matrix, hidden: Floats) -> Floats:
    out = np.empty((len(hidden), len(matrix)), np.float32)
    head_product(alone(), matrix, np.zeros((len(matrix), 0), np.float32), hidden, out)
    return out


def request(
    n_tokens: int = 1, n_best: int = 1, margin: float = INFINITY, always: Any = None, coldness: float = -1
) -> HeadRequest:
    marked = np.zeros((n_tokens, 0), np.uint8) if always is None else np.asarray(always, np.uint8)
    return HeadRequest(
        np.full(n_tokens, n_best), np.full(n_tokens, margin), marked, np.full(n_tokens, coldness, np.float32)
    )


def screened(matrix: Matrix, hidden: Floats, asked: HeadRequest) -> tuple[Floats, ScreenState]:
    state = new_screen_state(*matrix.shape, len(hidden), 1)
    out = np.empty((len(hidden), len(matrix)), np.float32)
    screened_head(alone(), matrix, screen_of(matrix), hidden, asked, state, out)
    return out, state


def bounds(matrix: Matrix, hidden: Floats) -> tuple[Floats, Floats]:
    _, state = screened(matrix, hidden, request(len(hidden)))
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
    screen = screen_of(matrix)
    lines, floats = (screen.view(dtype).transpose(0, 2, 1).reshape(-1, screen.shape[1]) for dtype in ("i4", "f4"))
    found = np.ascontiguousarray(lines[:vocab_size, HEADER:]).view(np.int8)
    scales, codes, norms, errors = reference.quantize_rows(matrix)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(floats[:vocab_size, SCALE], scales)
    np.testing.assert_array_equal(lines[:vocab_size, CORRECTION], -63 * codes.sum(axis=1, dtype=np.int64))
    for line, true in ((NORM, norms), (ERROR, errors)):
        stated = floats[:vocab_size, line].astype(np.float64)
        assert (stated >= true).all()
        assert (stated <= true * (1 + 1e-5) + 2e-21).all()  # squares below the smallest float32 count as one of it
    assert not lines[vocab_size:, HEADER:].any()
    assert np.isnan(floats[vocab_size:, [SCALE, ERROR]]).all()


@pytest.mark.parametrize("n_threads", SIZES)
def test_threads_change_no_bit_of_the_copy(n_threads: int) -> None:
    matrix = stored_floats(normal(np.random.default_rng(0), (333, 64)), "f16")
    screen = np.zeros(screen_shape(333, 64), np.uint32)
    with team_of(n_threads) as pool:
        pool.run(lambda ctx: quantize_rows(ctx, matrix, screen))
    np.testing.assert_array_equal(screen, screen_of(matrix))


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
def test_only_the_roundings_of_the_full_pass_are_left(seed: int, hidden_size: int, is_drifting: bool) -> None:
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
    state, screen = new_screen_state(*matrix.shape, 16, 1), screen_of(matrix)
    begin_worker(alone(), new_counts(), hidden, state)
    screen_worker(alone(), screen, state.coarse, np.zeros((16, 0), np.uint8), state)
    exact = full(matrix, hidden)
    widths = []
    for codes in (state.coarse, state.fine):
        screen_worker(alone(), screen, codes, np.zeros((16, 0), np.uint8), state)
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
    _, state = screened(matrix, hidden, request())
    assert state.rescored[0] < 100


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
def test_needed_logits_have_the_bits_of_the_full_pass(
    form: str, vocab_size: int, n_tokens: int, n_best: int, margin: float, always: float, step: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = normal(rng, (vocab_size, 64), 0.02)
    matrix = stored_floats((np.rint(weights / step) * step).astype(np.float32) if step else weights, form)  # with ties
    hidden = normal(rng, (n_tokens, 64), 5)
    marked = rng.random((n_tokens, vocab_size)) < always
    out, state = screened(matrix, hidden, request(n_tokens, n_best, margin, marked if always else None))
    exact = full(matrix, hidden)
    for token in range(n_tokens):
        computed = out[token] != -np.inf
        assert not (reference.needed_logits(exact[token], n_best, margin, marked[token]) & ~computed).any()
        np.testing.assert_array_equal(out[token, computed], exact[token, computed])
        assert state.rescored[token] == computed.sum()


@given(
    vocab_size=st.sampled_from([1, 16, 33, 500, 1000]),
    n_tokens=st.sampled_from([1, 3, 10]),
    n_best=st.sampled_from([0, 1, 20]),
    margin=st.sampled_from([0.0, 1.0, 6.0]),
    coldness=st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e30]),
    always=st.sampled_from([0.0, 0.05]),
    seed=SEEDS,
)
def test_what_is_left_out_weighs_no_more_than_is_told(
    vocab_size: int, n_tokens: int, n_best: int, margin: float, coldness: float, always: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix, hidden = normal(rng, (vocab_size, 64), 0.02), normal(rng, (n_tokens, 64), 20)
    marked = rng.random((n_tokens, vocab_size)) < always
    out, state = screened(matrix, hidden, request(n_tokens, n_best, margin, marked if always else None, coldness))
    exact = full(matrix, hidden).astype(np.float64)
    for token in range(n_tokens):
        is_left_out, threshold = out[token] == -np.inf, float(state.thresholds[token])
        assert (exact[token, is_left_out] < threshold).all()
        weights = np.exp(coldness * (exact[token, is_left_out] - threshold))
        widths = (state.upper - state.lower)[token, :vocab_size][is_left_out]
        told = state.left_out[token].sum(dtype=np.float64)
        assert weights.sum() <= told * (1 + 1e-4) + vocab_size * np.exp(-64.0)
        highest = np.minimum(exact[token, is_left_out] + widths - threshold, 0)
        assert told <= np.exp(coldness * highest).sum() * (1 + 1e-4)


def test_nothing_is_weighed_where_nobody_asks_or_nothing_is_left_out() -> None:
    rng = np.random.default_rng(11)
    matrix, hidden = normal(rng, (500, 64), 0.02), normal(rng, (2, 64), 20)
    assert not screened(matrix, hidden, request(2))[1].left_out.any()
    weighed = request(2, margin=1.0, coldness=1.0)
    assert screened(matrix, hidden, weighed)[1].left_out.any()
    assert not screened(matrix, hidden, request(2, n_best=600, coldness=1.0))[1].left_out.any()


@given(seed=SEEDS, n_tokens=st.integers(9, 16), peaked=st.integers(0, 16), n_best=st.sampled_from([1, 5, 60]))
def test_many_tokens_are_screened_with_one_byte_where_it_is_enough(
    seed: int, n_tokens: int, peaked: int, n_best: int
) -> None:
    """Of the first ones a logit stands out, which one byte shows; the others need both."""
    rng = np.random.default_rng(seed)
    matrix = stored_floats(normal(rng, (3000, 64), 0.02), "f16")
    hidden = normal(rng, (n_tokens, 64))
    favoured = rng.choice(3000, n_tokens, replace=False)
    hidden[:peaked] += 200 * matrix.view(np.float16)[favoured[:peaked]].astype(np.float32)
    always = rng.random((n_tokens, 3000)) < 0.001
    exact, asked = full(matrix, hidden), request(n_tokens, n_best, always=always)
    state, out = new_screen_state(3000, 64, 16, 1), np.empty((n_tokens, 3000), np.float32)
    for _ in range(2):  # with coarse bounds, and perhaps without
        screened_head(alone(), matrix, screen_of(matrix), hidden, asked, state, out)
        for token in range(n_tokens):
            computed = out[token] != -np.inf
            assert not (reference.needed_logits(exact[token], n_best, INFINITY, always[token]) & ~computed).any()
            np.testing.assert_array_equal(out[token, computed], exact[token, computed])
            assert state.rescored[token] == computed.sum()
    assert (state.rest[0] > 0) == (2 * state.is_open[:n_tokens].sum() > n_tokens)


@pytest.mark.parametrize(("n_best", "open_tokens"), [(60, []), (400, [5])])
def test_only_many_survivors_of_coarse_bounds_are_bounded_again(n_best: int, open_tokens: list[int]) -> None:
    """Of 3,000 rows, up to 375 of all tokens together are computed, though 47 of one token are many."""
    rng = np.random.default_rng(9)
    matrix = stored_floats(normal(rng, (3000, 64), 0.02), "f16")
    hidden = normal(rng, (16, 64)) + 200 * matrix.view(np.float16)[:16].astype(np.float32)
    asked = request(16)
    asked.n_best[5] = n_best
    out, state = screened(matrix, hidden, asked)
    assert np.flatnonzero(state.is_open[:16]).tolist() == open_tokens
    assert state.rescored[5] >= n_best > 47
    exact = full(matrix, hidden)
    computed = out != -np.inf
    np.testing.assert_array_equal(out[computed], exact[computed])
    assert (computed.sum(axis=1) == state.rescored[:16]).all()
    assert (np.sort(out[5])[-n_best:] == np.sort(exact[5])[-n_best:]).all()


def test_coarse_bounds_rest_where_they_are_of_no_use() -> None:
    rng = np.random.default_rng(8)
    matrix, hidden = stored_floats(normal(rng, (3000, 64), 0.02), "f16"), normal(rng, (16, 64))
    state, out, screen = new_screen_state(3000, 64, 16, 1), np.empty((16, 3000), np.float32), screen_of(matrix)

    def rests(n_best: int) -> int:
        screened_head(alone(), matrix, screen, hidden, request(16, n_best), state, out)
        return int(state.rest[0])

    assert [rests(1) for _ in range(2)] == [0, 0]
    assert [rests(300) for _ in range(REST + 2)] == [REST, *range(REST - 1, -1, -1), REST]


@given(seed=SEEDS)
def test_equal_rows_all_survive(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row, others = normal(rng, (1, 96), 0.02), normal(rng, (100, 96), 0.001)
    places = rng.choice(100, 5, replace=False)
    others[places] = row
    hidden = row / np.abs(row).max()
    out, _ = screened(others, hidden, request())
    assert np.argmax(out) == places.min()
    assert (out[0, places] == out.max()).all()


def test_most_rows_survive_where_all_are_alike_and_then_the_full_pass_runs() -> None:
    rng = np.random.default_rng(3)
    matrix = np.repeat(normal(rng, (1, 64)), 300, axis=0)
    matrix[:100] *= -1
    hidden = matrix[200:201].copy()
    out, state = screened(matrix, hidden, request())
    assert state.rescored[0] == 300
    np.testing.assert_array_equal(out, full(matrix, hidden))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_hidden_states_that_are_not_finite_get_the_full_pass(value: float) -> None:
    rng = np.random.default_rng(4)
    matrix, hidden = normal(rng, (50, 64)), normal(rng, (1, 64))
    hidden[0, 17] = value
    out, state = screened(matrix, hidden, request())
    assert state.rescored[0] == 50
    expected = full(matrix, hidden)
    np.testing.assert_array_equal(out, np.where(expected == -INFINITY, np.nan, expected))
    assert not np.isfinite(out).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_rows_that_are_not_finite_or_overflow_are_always_computed(value: float) -> None:
    rng = np.random.default_rng(5)
    matrix, hidden = normal(rng, (300, 64), 0.02), np.abs(normal(rng, (1, 64), 100))
    matrix[7, 5:9] = value
    exact, (out, state) = full(matrix, hidden), screened(matrix, hidden, request())
    np.testing.assert_array_equal(out[0, 7], np.nan if exact[0, 7] == -INFINITY else exact[0, 7])
    assert out[0, 7] == INFINITY or np.isnan(out[0, 7])
    others = np.delete(exact[0], 7)
    assert others.max() in out
    assert state.rescored[0] < 100


def run_screened(*arguments: Any) -> None:
    *rest, ctx = arguments
    screened_head(ctx, *rest)


def run_approximate(*arguments: Any) -> None:
    *rest, ctx = arguments
    approximate_head(ctx, *rest)


def test_sums_that_overflow_on_their_way_are_computed() -> None:
    matrix = np.full((300, 384), 1e20, np.float32)
    matrix[:, 192:] *= -1  # the true sum is 0, but the first half of it is beyond float32
    matrix[1:] *= np.float32(1e-10)
    hidden = np.full((1, 384), 1e18, np.float32)
    exact, (out, _) = full(matrix, hidden), screened(matrix, hidden, request())
    assert exact[0, 0] == INFINITY
    assert out[0, 0] == INFINITY


@pytest.mark.parametrize("n_threads", SIZES)
def test_threads_change_no_bit(n_threads: int) -> None:
    rng = np.random.default_rng(6)
    matrix, hidden = stored_floats(normal(rng, (1000, 96), 0.02), "bf16"), normal(rng, (3, 96))
    screen = screen_of(matrix)
    for n_tokens in (1, 3):
        asked = request(n_tokens, n_best=5)
        expected, alone_state = screened(matrix, hidden[:n_tokens], asked)
        state = new_screen_state(1000, 96, n_tokens, n_threads)
        out, rough = np.zeros((2, n_tokens, 1000), np.float32)
        with team_of(n_threads) as pool:
            pool.run(partial(run_screened, matrix, screen, hidden[:n_tokens], asked, state, out))
            np.testing.assert_array_equal(out, expected)
            np.testing.assert_array_equal(state.rescored[:n_tokens], alone_state.rescored[:n_tokens])
            pool.run(partial(run_approximate, matrix, screen, hidden[:n_tokens], state, rough))
        lower, upper = alone_state.lower[:, :1000], alone_state.upper[:, :1000]
        assert ((lower <= rough) & (rough <= upper)).all()
        assert (np.abs(rough - full(matrix, hidden[:n_tokens])) <= 0.3 * (upper - lower)).all()


# ---- refusals --------------------------------------------------------------------------------------------------------
VALID: dict[str, Any] = {
    "matrix": np.zeros((3, 64), np.uint16),
    "screen": np.zeros((2, 20, 16), np.uint32),
    "hidden": np.zeros((2, 64), np.float32),
    "request": request(2),
    "state": new_screen_state(3, 64, 2, 1),
    "out": np.zeros((2, 3), np.float32),
}


@pytest.mark.parametrize(
    ("name", "wrong", "named"),
    [
        ("matrix", np.zeros((3, 64), np.int8), "scales"),
        ("matrix", np.zeros(64, np.float32), "matrix"),
        ("matrix", np.zeros((3, 2**17 + 32), np.int16), "matrix"),
        ("screen", np.zeros((1, 20, 16), np.uint32), "screen"),
        ("screen", np.zeros((2, 20, 16), np.int32), "screen"),
        ("hidden", np.zeros((2, 32), np.float32), "hidden"),
        ("out", np.zeros((2, 4), np.float32), "out"),
        ("request", request(1), "n_best"),
        ("request", request(2)._replace(margin=np.zeros(1)), "margin"),
        ("request", request(2, always=np.zeros((2, 4))), "always"),
        ("request", request(2)._replace(always=np.zeros(3, np.uint8)), "always"),
        ("state", new_screen_state(3, 64, 1, 2), "state"),
        ("state", new_screen_state(33, 64, 2, 2), "state"),
        ("state", new_screen_state(3, 32, 2, 2), "state"),
        ("state", new_screen_state(3, 64, 2, 0), "state"),
    ],
)
def test_refuses(name: str, wrong: Any, named: str) -> None:
    screened_head(alone(), **VALID)
    with pytest.raises(ValueError, match=f"^{named}: "):
        screened_head(alone(), **{**VALID, name: wrong})
    if name != "request":
        with pytest.raises(ValueError, match=f"^{named}: "):
            approximate_head(alone(), **{key: x for key, x in {**VALID, name: wrong}.items() if key != "request"})
    if name in ("matrix", "screen"):
        with pytest.raises(ValueError, match=f"^{named}: "):
            quantize_rows(alone(), {**VALID, name: wrong}["matrix"], {**VALID, name: wrong}["screen"])

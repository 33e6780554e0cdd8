"""The product on tiles against its twin: emulated where the CPU has none, the instructions themselves where it has."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.registry import Kernel, new_counts
from bitnet_numba.backends.cpu.kernels.ternary import tile_check
from bitnet_numba.backends.cpu.kernels.ternary.gemm import FEW_TOKENS, GemmScratch, gemm_by_tokens, gemm_scratch
from bitnet_numba.backends.cpu.kernels.ternary.layout import TOKENS, pack_r16
from bitnet_numba.backends.cpu.kernels.ternary.tiles import (
    MANY_COLUMNS,
    TOKENS_PER_TASK,
    TileScratch,
    ternary_gemm_tiles,
    tile_scratch,
)
from bitnet_numba.errors import UnsupportedError
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import SEEDS, alone
from tests.backends.cpu.kernels.running import SIZES, on_threads
from tests.backends.cpu.kernels.test_ternary import Codes, Int32s, activations, ternary


def garbage(scratch: TileScratch, rng: np.random.Generator) -> TileScratch:
    """Fill what a product before may have left anything in."""
    for array in scratch[:-1]:
        array.view(np.uint8)[:] = rng.integers(0, 256, array.view(np.uint8).shape)
    return scratch


def product(weights: Codes, q: Codes, n_tokens: int, n_threads: int = 1, seed: int = 0) -> Int32s:
    rng = np.random.default_rng(seed)
    out = rng.integers(-100, 100, (n_tokens, weights.shape[0])).astype(np.int32)
    q_sum = q[:n_tokens].sum(axis=1, dtype=np.int32)
    packed, counts = pack_r16(reference.pack_i2s(weights)), new_counts()
    scratch = garbage(tile_scratch(n_threads, *q.shape), rng)
    on_threads(n_threads, lambda ctx: ternary_gemm_tiles(ctx, counts, packed, q, q_sum, scratch, out))
    assert counts[Kernel.TERNARY_GEMM_TILES] == counts.sum() == 1
    return out


def check(rows: int, columns: int, n_tokens: int, seed: int, n_threads: int = 1) -> None:
    rng = np.random.default_rng(seed)
    weights, q = ternary(rng, rows, columns), activations(rng, n_tokens, columns)
    expected = reference.ternary_product(weights, q[:n_tokens])
    np.testing.assert_array_equal(product(weights, q, n_tokens, n_threads, seed), expected)


@given(panels=st.integers(1, 3), runs=st.integers(1, 9), n_tokens=st.integers(2, 16), seed=SEEDS)
def test_up_to_a_tile_of_tokens_equal_their_twin(panels: int, runs: int, n_tokens: int, seed: int) -> None:
    check(64 * panels, 128 * runs, n_tokens, seed)


@given(panels=st.integers(1, 4), runs=st.integers(1, 9), n_tokens=st.integers(17, 300), seed=SEEDS)
def test_more_tokens_equal_their_twin(panels: int, runs: int, n_tokens: int, seed: int) -> None:
    check(32 * panels, 128 * runs, n_tokens, seed)


@pytest.mark.parametrize("n_tokens", [17, 128, 129, 300])
@pytest.mark.parametrize("columns", [4096, 4224])
def test_chunks_of_both_sizes_equal_their_twin(columns: int, n_tokens: int) -> None:
    check(64, columns, n_tokens, seed=n_tokens)


@pytest.mark.parametrize("n_tokens", [2, 16, 17, TOKENS_PER_TASK, TOKENS_PER_TASK + 1, 2 * TOKENS_PER_TASK])
def test_any_number_of_threads_gives_the_same(n_tokens: int) -> None:
    for n_threads in SIZES:
        check(64 * 5, 2 * MANY_COLUMNS + 128, n_tokens, n_tokens, n_threads)


@pytest.mark.parametrize("n_tokens", [7, 33])
@pytest.mark.parametrize("activation", [-128, 127])
@pytest.mark.parametrize("weight", [-1, 1])
def test_extremes_do_not_saturate(weight: int, activation: int, n_tokens: int) -> None:
    columns = 6912
    weights = np.full((64, columns), weight, np.int8)
    q = np.full(((n_tokens + TOKENS - 1) // TOKENS * TOKENS, columns), activation, np.int8)
    np.testing.assert_array_equal(product(weights, q, n_tokens), weight * activation * columns)


@pytest.mark.parametrize("rows", [32, 64, 96])
def test_tiles_take_over_where_they_can(rows: int) -> None:
    """A few tokens, and up to sixteen of a number of rows that leaves a rest, are the vectors' to multiply."""
    for n_tokens in (2, FEW_TOKENS, FEW_TOKENS + 1, 16, 17):
        rng = np.random.default_rng(n_tokens)
        weights, q = ternary(rng, rows, 256), activations(rng, n_tokens, 256)
        counts, out = new_counts(), np.zeros((n_tokens, rows), np.int32)
        q_sum = q[:n_tokens].sum(axis=1, dtype=np.int32)
        packed = pack_r16(reference.pack_i2s(weights))
        scratch = GemmScratch(gemm_scratch(1, *q.shape).unpacked, tile_scratch(1, *q.shape))
        gemm_by_tokens(alone(), counts, packed, q, q_sum, scratch, out)
        np.testing.assert_array_equal(out, reference.ternary_product(weights, q[:n_tokens]))
        on_tiles = n_tokens > 16 or (n_tokens > FEW_TOKENS and rows == 64)
        assert (counts[Kernel.TERNARY_GEMM_TILES], counts[Kernel.TERNARY_GEMM]) == (on_tiles, not on_tiles)


# ---- the check at load -----------------------------------------------------------------------------------------------
def test_tiles_that_compute_the_same_pass() -> None:
    tile_check.check_tiles()


@pytest.mark.parametrize("n_tokens", [16, 40])
def test_one_wrong_sum_is_found_and_the_remedy_named(n_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly(*arguments: Any) -> None:
        multiply_both(*arguments)
        of_tiles, _ = arguments[-1]
        of_tiles[-1, -1] += len(of_tiles) == n_tokens

    multiply_both = tile_check.multiply_both
    monkeypatch.setattr(tile_check, "multiply_both", nearly)
    with pytest.raises(UnsupportedError, match=r"1 of .* sums .* are wrong; set BITNET_ISA=avx512_vnni "):
        tile_check.check_tiles()

"""Rotary positions against their twins: the frequencies, the table, the rotation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.rope import BLOCK_POSITIONS, RopeTable, rope, rope_table
from bitnet_numba.backends.cpu.memory import allocate
from bitnet_numba.model.rope_scaling import inverse_frequencies, llama3_factors, stretch_llama3
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import ROUNDING, SEEDS, UNDERFLOW, assert_within, wide_integers

DOUBLE_ROUNDING = 2.0**-53
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 8192}


@given(pairs=st.integers(1, 128), theta=st.sampled_from([10_000.0, 500_000.0, 1.5e6, 2.0]))
def test_frequencies(pairs: int, theta: float) -> None:
    expected = reference.inverse_frequencies(2 * pairs, theta)
    # the twin's exponent is rounded twice, which counts ln(theta) times; each result is rounded once
    bound = (2 * np.log(theta) + 3) * DOUBLE_ROUNDING * expected
    assert_within(inverse_frequencies(2 * pairs, theta), expected, bound)


def test_frequencies_are_correctly_rounded() -> None:
    assert inverse_frequencies(4, 10_000.0).tolist() == [1.0, 0.01]
    assert inverse_frequencies(6, 1000.0).tolist() == [1.0, 0.1, 0.01]


@pytest.mark.parametrize("head_dim", [64, 128])
def test_llama3_stretches_long_waves_only(head_dim: int) -> None:
    frequency = inverse_frequencies(head_dim, 500_000.0)
    expected = reference.stretch_llama3(frequency, **LLAMA3)
    stretched = stretch_llama3(frequency, **LLAMA3)
    np.testing.assert_allclose(stretched, expected, rtol=1e-12)  # the blend cancels digits near its ends
    assert stretched[0] == frequency[0]
    assert stretched[-1] == frequency[-1] / 32
    factors = llama3_factors(frequency, **LLAMA3)
    assert factors.dtype == np.float32
    np.testing.assert_allclose(frequency / factors, stretched, rtol=2**-24)
    assert (factors[0], factors[-1]) == (1, 32)


@pytest.mark.parametrize(
    ("head_dim", "theta", "n_positions"), [(64, 10_000.0, 4096), (20, 500_000.0, 1000), (2, 10_000.0, 150_000)]
)
def test_table(head_dim: int, theta: float, n_positions: int) -> None:
    frequency = inverse_frequencies(head_dim, theta)
    half = (head_dim // 2 + 15) // 16 * 16
    expected = reference.rope_table(frequency, np.arange(n_positions), half)
    table = rope_table(frequency, n_positions, half)
    assert table.dtype == np.float32
    # rounded to float32 once; before that reduction and polynomial cost a few float64 roundings of numbers up to 1
    assert_within(table, expected, ROUNDING * np.abs(expected) + 4 * DOUBLE_ROUNDING)


@given(blocks=st.integers(1, 8), factor=st.sampled_from([1e-30, 3e-3, 1.0, -7e4, 1e20]), seed=SEEDS)
def test_matches_its_twin(blocks: int, factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = 16 * blocks
    acc = wide_integers(rng, 2 * half)
    angle = rng.uniform(0, 2 * np.pi, half)
    table = np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32)
    out = np.empty(2 * half, np.float32)
    rope(acc, np.float32(factor), table, out)
    head = reference.scale(acc, np.float32(factor))
    # sum to float32, times the factor, times cosine or sine, and the addition: 4 roundings of the two products
    products = np.abs(head[:half]) + np.abs(head[half:])
    bound = 4.01 * ROUNDING * np.tile(products, 2) + 4 * UNDERFLOW
    assert_within(out, reference.rope(head, table), bound)


def test_position_zero_is_not_rotated() -> None:
    acc = wide_integers(np.random.default_rng(0), 64)
    out = np.empty(64, np.float32)
    rope(acc, np.float32(0.5), rope_table(inverse_frequencies(64, 10_000.0), 1, 32)[0], out)
    np.testing.assert_array_equal(out, acc.astype(np.float32) * np.float32(0.5))


@pytest.mark.parametrize("reach", [1, 4096, 4097, 9000])
def test_a_table_is_filled_in_blocks_with_the_same_bits(reach: int) -> None:
    frequency = inverse_frequencies(64, 10_000.0)
    table = RopeTable(frequency, 10_000, 32, allocate)
    assert not table.rows.any()
    table.fill(reach)
    end = min(-(-reach // BLOCK_POSITIONS) * BLOCK_POSITIONS, 10_000)
    np.testing.assert_array_equal(table.rows[:end], rope_table(frequency, end, 32))
    assert not table.rows[end:].any()
    table.fill(10_000)
    np.testing.assert_array_equal(table.rows, rope_table(frequency, 10_000, 32))
    assert not table.rows.flags.writeable

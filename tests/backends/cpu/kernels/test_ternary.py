"""The ternary product against its twin: integers, so equality."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.registry import Kernel, new_counts
from bitnet_numba.backends.cpu.kernels.ternary.layout import TOKENS, pack, pack_r16
from bitnet_numba.backends.cpu.packed_sizes import FIVE_TRITS, grouped_columns, packed_size
from bitnet_numba.model.config import MAX_SIZE
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import SEEDS
from tests.backends.cpu.kernels.running import SIZES, ternary_product

BLOCKS = st.integers(1, 4)  # of 32 rows
RUNS = st.integers(1, 11)  # of 128 columns
FILLS = st.sampled_from([None, -128, 127, 0])

Codes = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]


def ternary(rng: np.random.Generator, rows: int, columns: int) -> Codes:
    return rng.integers(-1, 2, (rows, columns)).astype(np.int8)


def activations(rng: np.random.Generator, n_tokens: int, columns: int, fill: int | None = None) -> Codes:
    """Draw the tokens' activations, and garbage in the slots up to a multiple of eight."""
    slots = 1 if n_tokens == 1 else (n_tokens + TOKENS - 1) // TOKENS * TOKENS
    q = rng.integers(-128, 128, (slots, columns)).astype(np.int8)
    if fill is not None:
        q[:n_tokens] = fill
    return q


def product(weights: Codes, q: Codes, n_tokens: int, n_threads: int = 1) -> Int32s:
    return ternary_product(pack(reference.pack_i2s(weights)), q, n_tokens, n_threads=n_threads)


@given(blocks=BLOCKS, runs=RUNS, seed=SEEDS)
def test_packing_equals_its_twin_and_comes_back(blocks: int, runs: int, seed: int) -> None:
    weights = ternary(np.random.default_rng(seed), 32 * min(blocks, 2), 128 * min(runs, 3))
    i2s = reference.pack_i2s(weights)
    packed = pack_r16(i2s)
    np.testing.assert_array_equal(packed, reference.pack_r16(i2s))
    around = np.full(packed.size + 2, 7, np.uint8)
    assert np.shares_memory(pack_r16(i2s, out=around[1:-1]), around)
    np.testing.assert_array_equal(around, [7, *packed, 7])
    np.testing.assert_array_equal(reference.unpack(packed, *weights.shape, 0), weights)


@pytest.mark.parametrize("runs", [1, 4, 5, 6, 9, 10, 14])
def test_packing_of_this_cpu_equals_its_twin(runs: int) -> None:
    weights = ternary(np.random.default_rng(runs), 64, 128 * runs)
    i2s = reference.pack_i2s(weights)
    packed = pack(i2s)
    np.testing.assert_array_equal(packed, reference.pack_fives(i2s) if FIVE_TRITS else reference.pack_r16(i2s))
    assert packed.size == packed_size(64, 128 * runs) == 64 * 32 * (runs - (runs // 5 if FIVE_TRITS else 0))
    np.testing.assert_array_equal(reference.unpack(packed, *weights.shape, grouped_columns(128 * runs)), weights)
    around = np.full(packed.size + 2, 7, np.uint8)
    assert np.shares_memory(pack(i2s, out=around[1:-1]), around)
    np.testing.assert_array_equal(around, [7, *packed, 7])


@given(blocks=BLOCKS, runs=RUNS, n_tokens=st.integers(1, 40), seed=SEEDS, fill=FILLS)
def test_equals_its_twin(blocks: int, runs: int, n_tokens: int, seed: int, fill: int | None) -> None:
    rng = np.random.default_rng(seed)
    weights = ternary(rng, 32 * blocks, 128 * runs)
    q = activations(rng, n_tokens, 128 * runs, fill)
    np.testing.assert_array_equal(product(weights, q, n_tokens), reference.ternary_product(weights, q[:n_tokens]))


@pytest.mark.parametrize("n_tokens", [1, 2, 7])
@pytest.mark.parametrize("activation", [-128, 127])
@pytest.mark.parametrize("weight", [-1, 1])
def test_the_largest_sums_do_not_overflow(weight: int, activation: int, n_tokens: int) -> None:
    columns = MAX_SIZE  # a quarter of them, each 2 * 128 at most, 64 times too large, must fit an int32
    weights = np.full((32, columns), weight, np.int8)
    q = np.full((1 if n_tokens == 1 else TOKENS, columns), activation, np.int8)
    np.testing.assert_array_equal(product(weights, q, n_tokens), weight * activation * columns)


@pytest.mark.parametrize("columns", [128, 384, 640, 1408])
def test_every_number_of_tokens(columns: int) -> None:
    """Tiles of registers end somewhere, and a last one may begin within the one before."""
    rng = np.random.default_rng(columns)
    weights = ternary(rng, 64, columns)
    for n_tokens in range(1, 41):
        q = activations(rng, n_tokens, columns)
        np.testing.assert_array_equal(product(weights, q, n_tokens), reference.ternary_product(weights, q[:n_tokens]))


@given(n_tokens=st.integers(2, 20), seed=SEEDS)
def test_many_tokens_equal_each_alone(n_tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = ternary(rng, 64, 768)
    q = activations(rng, n_tokens, 768)
    each = [product(weights, q[token : token + 1], 1)[0] for token in range(n_tokens)]
    np.testing.assert_array_equal(product(weights, q, n_tokens), each)


@pytest.mark.parametrize("n_tokens", [1, 3, 17])
def test_any_number_of_threads_gives_the_same(n_tokens: int) -> None:
    rng = np.random.default_rng(n_tokens)
    weights, q = ternary(rng, 32 * 13, 768), activations(rng, n_tokens, 768)
    expected = reference.ternary_product(weights, q[:n_tokens])
    for n_threads in SIZES:
        np.testing.assert_array_equal(product(weights, q, n_tokens, n_threads), expected)


@pytest.mark.parametrize(
    "i2s",
    [
        np.zeros(32 * 32, np.uint8),
        np.zeros((32, 32), np.uint16),
        np.zeros((16, 32), np.uint8),
        np.zeros((0, 32), np.uint8),
        np.zeros((32, 16), np.uint8),
        np.zeros((32, 64), np.uint8)[:, ::2],
    ],
)
@pytest.mark.parametrize("packing", [pack, pack_r16])
def test_packing_refuses(i2s: Any, packing: Any) -> None:
    with pytest.raises(ValueError, match=r"^i2s: expected"):
        packing(i2s)


@pytest.mark.parametrize("out", [np.zeros(1023, np.uint8), np.zeros(1024, np.int8), np.zeros(2048, np.uint8)[::2]])
def test_packing_refuses_to_write_to(out: Any) -> None:
    with pytest.raises(ValueError, match=r"^out: expected"):
        pack_r16(np.zeros((32, 32), np.uint8), out)


def test_packing_refuses_to_write_to_a_mapped_file() -> None:
    out = np.ones(1024, np.uint8)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: expected an array that can be written to"):
        pack_r16(np.zeros((32, 32), np.uint8), out)


def test_one_token_and_many_are_counted_apart() -> None:
    rng, counts = np.random.default_rng(0), new_counts()
    packed = pack(reference.pack_i2s(ternary(rng, 32, 128)))
    for n_tokens in (1, 2):
        ternary_product(packed, activations(rng, n_tokens, 128), n_tokens, counts, n_threads=2)
    assert (counts[Kernel.TERNARY_GEMV], counts[Kernel.TERNARY_GEMM], counts.sum()) == (1, 1, 2)

"""Two-bit codes by table, against their twin: equality."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.unpack import RUNS_A_TASK, unpack_lut, value_table
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import SEEDS, alone
from tests.backends.cpu.kernels.teams import SIZES, team_of


@pytest.mark.parametrize(("dtype", "scale"), [(np.int8, 1.0), (np.float32, 1.0), (np.float32, 0.3)])
def test_table_holds_the_four_values_of_every_byte(dtype: Any, scale: float) -> None:
    table = value_table(dtype, scale)
    assert table.dtype == dtype
    for byte in range(256):
        codes = [byte >> 6, byte >> 4 & 3, byte >> 2 & 3, byte & 3]
        np.testing.assert_array_equal(table[byte], (np.array(codes) - 1) * dtype(scale))


@given(runs=st.integers(1, 3 * RUNS_A_TASK), real=st.booleans(), seed=SEEDS)
def test_equals_its_twin(runs: int, real: bool, seed: int) -> None:
    packed = np.random.default_rng(seed).integers(0, 256, 32 * runs).astype(np.uint8)
    table = value_table(np.float32, 1.7e-3) if real else value_table(np.int8)
    out = np.full(128 * runs, 99, table.dtype)
    unpack_lut(alone(), packed, table, out)
    np.testing.assert_array_equal(out, reference.unpack_lut(packed, table))


def test_undoes_the_packing() -> None:
    weights = np.random.default_rng(0).integers(-1, 2, (3, 384)).astype(np.int8)
    out = np.empty(weights.size, np.int8)
    unpack_lut(alone(), reference.pack_i2s(weights).reshape(-1), value_table(np.int8), out)
    np.testing.assert_array_equal(out.reshape(3, 384), weights)


@pytest.mark.parametrize("n_threads", SIZES)
def test_any_number_of_threads_gives_the_same(n_threads: int) -> None:
    packed = np.random.default_rng(1).integers(0, 256, 32 * (5 * RUNS_A_TASK + 3)).astype(np.uint8)
    table = value_table(np.float32, 0.1)
    out = np.empty(4 * packed.size, np.float32)
    with team_of(n_threads) as pool:
        pool.run(lambda ctx: unpack_lut(ctx, packed, table, out))
    np.testing.assert_array_equal(out, reference.unpack_lut(packed, table))


VALID: dict[str, Any] = {
    "packed": np.zeros(64, np.uint8),
    "table": value_table(np.int8),
    "out": np.zeros(256, np.int8),
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("packed", np.zeros(0, np.uint8)),
        ("packed", np.zeros(48, np.uint8)),
        ("packed", np.zeros(64, np.int8)),
        ("packed", np.zeros((2, 32), np.uint8)),
        ("packed", np.zeros(128, np.uint8)[::2]),
        ("table", np.zeros((256, 4), np.int16)),
        ("table", np.zeros((4, 256), np.int8)),
        ("table", np.zeros((255, 4), np.int8)),
        ("table", np.zeros((4, 256), np.int8).T),
        ("out", np.zeros(128, np.int8)),
        ("out", np.zeros(256, np.float32)),
        ("out", np.zeros(512, np.int8)[::2]),
    ],
)
def test_refuses(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        unpack_lut(alone(), **{**VALID, name: wrong})

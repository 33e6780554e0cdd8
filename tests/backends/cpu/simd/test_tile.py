"""Operations on tiles against NumPy, and the instructions that they become on a CPU that has them."""

import re
from collections import Counter
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.cpu.simd import cpu, emulated_tile, tile
from bitnet_numba.backends.cpu.simd.tile import new_tiles, operations
from tests.subprocesses import run_python

Bytes = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]
BODIES: dict[str, Any] = {"emulated": emulated_tile.EmulatedTiles}
if cpu.isa() == cpu.TILES:
    BODIES["hardware"] = tile.HardwareTiles
FEATURES = ",".join(f"+{name}" for name in cpu.REQUIRED_FEATURES[cpu.TILES])


@pytest.fixture(scope="module", params=BODIES)
def products(request: pytest.FixtureRequest) -> Any:
    """Return a function that adds two products on tiles to sums, all of them rows some bytes apart."""
    configure, release, zero, load, store, dot = operations(BODIES[request.param])

    @numba.njit
    def add(tiles: Any, signed: Any, codes: Any, sums: Any, strides: Any, start_anew: bool) -> None:
        configure(tiles)
        if start_anew:
            zero(tiles, 3)
        else:
            load(tiles, 3, sums, 2, strides[2])
        load(tiles, 0, signed, 1, strides[0])
        load(tiles, 7, codes, 0, strides[1])
        dot(tiles, 3, 0, 7)
        load(tiles, 5, codes, 64, strides[1])
        dot(tiles, 3, 0, 5)
        store(tiles, 3, sums, 2, strides[2])
        release(tiles)

    return add


def expected(signed: Bytes, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return signed[16, 64] times codes, whose rows hold four neighbouring ones of each of sixteen columns."""
    by_column = codes.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16)
    return signed.astype(np.int64) @ by_column.astype(np.int64)


@pytest.mark.parametrize("start_anew", [True, False])
@pytest.mark.parametrize("limit", [2, 255])
def test_products_of_tiles_equal_numpy(products: Any, limit: int, start_anew: bool) -> None:
    rng = np.random.default_rng(limit)
    signed = rng.integers(-128, 128, 1 + 16 * 100).astype(np.int8)
    codes = rng.integers(0, limit + 1, (16, 128)).astype(np.uint8)
    before = rng.integers(-(2**20), 2**20, (16, 20)).astype(np.int32)
    sums = before.copy()
    products(new_tiles(1)[0], signed, codes.reshape(-1), sums.reshape(-1), (100, 128, 80), start_anew)
    activations = signed[1:].reshape(16, 100)[:, :64]
    added = expected(activations, codes[:, :64]) + expected(activations, codes[:, 64:])
    after = before.reshape(-1).copy()
    indices = 2 + 20 * np.arange(16)[:, None] + np.arange(16)
    after[indices] = added + (0 if start_anew else after[indices])
    np.testing.assert_array_equal(sums.reshape(-1), after)


def test_extremes_do_not_saturate(products: Any) -> None:
    signed, codes = np.full(1 + 1024, -128, np.int8), np.full(2048, 255, np.uint8)
    sums = np.zeros(2 + 256, np.int32)
    products(new_tiles(1)[0], signed, codes, sums, (64, 128, 64), True)
    np.testing.assert_array_equal(sums[2:], 2 * 64 * -128 * 255)


def test_emulated_tiles_without_a_configuration_compute_nothing() -> None:
    _, release, zero, load, store, dot = operations(emulated_tile.EmulatedTiles)

    @numba.njit
    def forgetful(tiles: Any, signed: Any, sums: Any) -> None:
        release(tiles)
        zero(tiles, 0)
        load(tiles, 1, signed, 0, 64)
        dot(tiles, 0, 1, 1)
        store(tiles, 0, sums, 0, 64)

    sums = np.full(256, 7, np.int32)
    forgetful(new_tiles(1)[0], np.ones(1024, np.int8), sums)
    np.testing.assert_array_equal(sums, 7)


# ---- for a CPU that has them -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Return the names and operands of the product of many tokens, compiled for the first CPU with AMX."""
    if not cpu.is_x86():
        pytest.skip("LLVM compiles for AMX where it compiles for x86")
    environment = {
        "NUMBA_CPU_NAME": "sapphirerapids",
        "NUMBA_CPU_FEATURES": FEATURES,
        "BITNET_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),  # what comes from a cache has no assembly to show
    }
    done = run_python("-m", "tests.backends.cpu.kernels.compiled_tiles", without=("BITNET_ISA",), **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# amx_int8\n")
    return re.findall(r"^\s+([a-z]\w+)\s*(.*)$", done.stdout, re.MULTILINE)


def test_tiles_become_their_instructions(instructions: list[tuple[str, str]]) -> None:
    count = Counter(name for name, _ in instructions)
    assert count["ldtilecfg"] == count["tilerelease"] == 1
    assert min(count[name] for name in ("tilezero", "tileloadd", "tilestored", "tdpbsud", "vpdpbusd")) > 0
    names = [name for name, _ in instructions]
    assert names.index("ldtilecfg") < names.index("tilerelease")


def test_every_product_takes_the_operands_that_ran_on_a_xeon(instructions: list[tuple[str, str]]) -> None:
    """Sums, then activations, then codes: the prototype's order, which assembly prints from the last to the first."""
    dots = [operands for name, operands in instructions if name == "tdpbsud"]
    numbers = ["".join(reversed(re.findall(r"%tmm(\d)", operands))) for operands in dots]
    assert set(numbers) == {"045", "146", "247", "345", "046", "147", "256", "357"}


def test_the_inner_loops_are_those_of_the_prototype(instructions: list[tuple[str, str]]) -> None:
    """Loads and products alternate; nothing else touches tiles between the first load and the last product."""
    steps = [
        name[4:5] + "".join(re.findall(r"%tmm(\d)", operands))
        for name, operands in instructions
        if name in ("tileloadd", "tdpbsud")
    ]
    text = " ".join(steps)
    assert "l4 l5 s540 l6 s641 l7 s742 l5 s543" in text
    assert "l4 l6 s640 l7 s741 l5 s652 s753" in text

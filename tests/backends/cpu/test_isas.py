"""The same bits from every instruction set that this CPU runs, and clear words for one that it does not."""

import json
from typing import Any

import pytest

from bitnet_numba.backends.cpu.simd import cpu
from tests.backends.cpu.isa_digest import SECTIONS
from tests.subprocesses import ISAS, for_each_isa, run_python

pytestmark = pytest.mark.slow  # compiles every kernel for every instruction set


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """Return what each instruction set gives."""
    return for_each_isa(digest)


def digest(isa: str) -> dict[str, Any]:
    done = run_python("-m", "tests.backends.cpu.isa_digest", BITNET_ISA=isa)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("isa", ISAS)
def test_every_kernel_gives_the_same_bits(isa: str, results: dict[str, dict[str, Any]]) -> None:
    result = results[isa]
    assert result["isa"] == isa
    assert list(result["digests"]) == [section.__name__ for section in SECTIONS]
    assert result["digests"] == results["generic"]["digests"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"BITNET_ISA": "nonsense"},
            f"ParameterError: BITNET_ISA=nonsense: unknown; choose one of {', '.join(cpu.REQUIRED_FEATURES)}",
        ),
        (
            {"BITNET_ISA": "amx_int8", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c"},
            "UnsupportedError: BITNET_ISA=amx_int8: this CPU lacks amx-int8, amx-tile, avx512bw, avx512dq, avx512f, "
            "avx512vl, avx512vnni; it has avx2, generic",
        ),
        (
            {"BITNET_ISA": "avx2", "NUMBA_CPU_FEATURES": ""},
            "UnsupportedError: BITNET_ISA=avx2: this CPU lacks avx, avx2, f16c, fma; it has generic",
        ),
    ],
)
def test_a_set_that_cannot_be_had_is_refused_before_anything_compiles(
    environment: dict[str, str], message: str
) -> None:
    done = run_python("-c", "import bitnet_numba.backends.cpu.kernels.ternary", **environment)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(message)

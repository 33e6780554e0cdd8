"""The tables of instruction sets agree: what CONTRIBUTING's "Add an instruction set" asks for is there for each one."""

import itertools
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from bitnet_numba.backends.cpu.kernels.ternary.gemm import REGISTER_TILES
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.dot import BODIES

DOCS = Path(__file__).parents[4] / "docs"
ISAS = list(cpu.REQUIRED_FEATURES)


def test_each_vector_set_has_a_dot_product_and_a_register_tile() -> None:
    vector_isas = set(ISAS) - {cpu.TILES, cpu.FIVE_TRITS}  # which add to the vectors of another set
    assert set(BODIES) == set(REGISTER_TILES) == vector_isas


@pytest.mark.parametrize(("faster", "slower"), [*itertools.combinations(ISAS, 2)])
def test_a_set_stands_before_those_that_it_extends(faster: str, slower: str) -> None:
    assert not set(cpu.REQUIRED_FEATURES[slower]) > set(cpu.REQUIRED_FEATURES[faster])


@pytest.mark.skipif(not cpu.is_x86(), reason="LLVM lists the features of this machine's architecture")
@pytest.mark.parametrize("isa", [isa for isa in ISAS if not isa.startswith("neon")])
def test_features_have_llvm_s_names(isa: str) -> None:
    assert set(llvm.get_host_cpu_features()).issuperset(cpu.REQUIRED_FEATURES[isa])


@pytest.mark.parametrize("isa", ISAS)
def test_each_set_is_in_the_docs_with_its_features(isa: str) -> None:
    features = " ".join(cpu.REQUIRED_FEATURES[isa]) or "none"
    assert f"| `{isa}` | {features} |" in (DOCS / "reference" / "kernels.md").read_text(encoding="utf-8")
    for page in ("reference/environment.md", "how-to/choose-instruction-set-and-threads.md"):
        assert f"`{isa}`" in (DOCS / page).read_text(encoding="utf-8")

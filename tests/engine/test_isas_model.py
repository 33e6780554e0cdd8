"""Every instruction set that this CPU can run gives the same logits, bit for bit."""

import pytest

from bitnet_numba.simd import cpu
from tests.engine.isa_logits import logits_digest
from tests.subprocesses import run_python


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest with the instruction set of this process."""
    return logits_digest(tmp_path_factory.mktemp("toys"))


@pytest.mark.parametrize("isa", [isa for isa in cpu.available_isas() if isa != cpu.isa()])
def test_same_logits_with_every_instruction_set(isa: str, expected: str) -> None:
    done = run_python("-m", "tests.engine.isa_logits", BITNET_ISA=isa)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected

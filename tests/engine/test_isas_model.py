"""Every instruction set that this CPU can run gives the same logits, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_numba.simd import cpu
from tests.engine.isa_logits import logits_digest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest with the instruction set of this process."""
    return logits_digest(tmp_path_factory.mktemp("toys"))


@pytest.mark.parametrize("isa", [isa for isa in cpu.available_isas() if isa != cpu.isa()])
def test_same_logits_with_every_instruction_set(isa: str, expected: str) -> None:
    command = [sys.executable, "-m", "tests.engine.isa_logits"]
    environment = os.environ | {"BITNET_ISA": isa}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert result.stdout.strip() == expected

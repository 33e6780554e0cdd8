"""The tables of the reference pages list exactly what the code defines."""

import inspect
import re
from pathlib import Path

from bitnet_numba import settings
from bitnet_numba.backends.cpu.kernels.registry import KERNEL_IDS
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.formats.tensor_formats import FORMATS
from docs.generate_python_reference import public_errors
from tests.docs.markdown import ROOT

REFERENCE = ROOT / "docs" / "reference"
_VARIABLE = re.compile(r"\bBITNET_[A-Z_]+\b")


def rows(page: Path) -> list[list[str]]:
    """Return the cells of every table row of a page, code marks removed."""
    lines = page.read_text(encoding="utf-8").replace("`", "").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_environment_variables_are_those_of_the_settings() -> None:
    documented = set(_VARIABLE.findall((REFERENCE / "environment.md").read_text(encoding="utf-8")))
    assert documented == set(_VARIABLE.findall(inspect.getsource(settings)))


def test_kernels_are_those_of_the_registry() -> None:
    first_cells = [row[0] for row in rows(REFERENCE / "kernels.md")]
    documented = first_cells[2 : first_cells.index("instruction set")]
    isa = cpu.vector_isa() if cpu.has_tiles() else cpu.isa()
    filled = [kernel.replace("{isa}", isa).replace("{vectors}", cpu.vector_isa()) for kernel in documented]
    assert filled == list(KERNEL_IDS.values())


def test_instruction_sets_are_those_that_can_be_chosen() -> None:
    table = rows(REFERENCE / "kernels.md")
    start = [row[0] for row in table].index("instruction set") + 2
    documented = {isa: features.split() for isa, features, _ in table[start:]}
    assert documented == {isa: list(features) or ["none"] for isa, features in cpu.REQUIRED_FEATURES.items()}


def test_tensor_types_are_those_that_are_read() -> None:
    types = {tensor_type.name: tensor_type for tensor_type in FORMATS}
    documented = {row[0]: (int(row[1]), row[2]) for row in rows(REFERENCE / "formats.md") if row[0] in types}
    assert documented.keys() == types.keys()
    for name, (number, size) in documented.items():
        layout = FORMATS[types[name]].layout
        assert number == types[name]
        assert size.startswith(f"{layout.block} -> {layout.block_bytes}")


def test_exit_codes_are_those_of_the_errors() -> None:
    table = rows(REFERENCE / "exit-codes.md")
    documented = {row[0]: row[2] for row in table if len(row) == 3}
    for error in public_errors():
        assert error.__name__ in documented[str(error.exit_code)]
    assert {error.__name__ for error in public_errors()} <= {row[0] for row in table if len(row) == 2}

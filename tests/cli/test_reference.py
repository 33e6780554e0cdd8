"""docs/reference/cli.md says what the help texts say."""

from bitnet_numba_cli.main import COMMANDS
from docs.generate_cli_reference import TARGET, reference


def test_the_page_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == reference(), "run: python docs/generate_cli_reference.py"


def test_the_page_has_every_command() -> None:
    page = reference()
    assert all(f"\n## {name}\n\n`bitnet-numba {name} [OPTIONS]" in page for name in COMMANDS)

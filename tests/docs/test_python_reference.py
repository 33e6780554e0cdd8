"""docs/reference/python.md agrees with the docstrings."""

import bitnet_numba
from bitnet_numba.declare import options_of
from bitnet_numba.options import LoadOptions
from docs.generate_python_reference import TARGET, public_errors, reference


def test_the_page_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == reference(), "run: python docs/generate_python_reference.py"


def test_the_page_has_every_public_name() -> None:
    page = reference()
    names = set(bitnet_numba.__all__) - {error.__name__ for error in public_errors()} - {"BitNetError", "__version__"}
    assert all(f"\n## {name}\n" in page for name in names)
    assert all(f"| `{error.__name__}` (" in page for error in public_errors())


def test_the_page_has_every_argument() -> None:
    page = reference()
    arguments = {"model", *options_of(LoadOptions), *options_of(bitnet_numba.SamplingParams)}
    assert "**options" not in page
    assert all(f"\n| `{name}` | " in page or f"`{name}, " in page or f", {name}` | " in page for name in arguments)


def test_no_sphinx_markup_remains() -> None:
    page = reference()
    assert ":class:" not in page
    assert ":meth:" not in page
    assert "``" not in page.replace("```", "")

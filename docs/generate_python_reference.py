"""Write docs/reference/python.md from the docstrings: ``python docs/generate_python_reference.py``."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import bitnet_numba
from bitnet_numba import errors
from bitnet_numba.options import LoadOptions

TARGET = Path(__file__).parent / "reference" / "python.md"
HEADER = """\
# Python

<!-- Made by docs/generate_python_reference.py from the docstrings; change those, and run it again. -->

`import bitnet_numba` costs nothing: each name is imported when it is first used.
"""
ERRORS = """\
## Errors

A message is one line that names the place and the remedy. The last column is the exit status of the command line.

"""
_RESULTS = (bitnet_numba.GenerationResult, bitnet_numba.Chunk, bitnet_numba.TokenLogprob)
_FIRST_COLUMNS = {"Parameters": "name", "Attributes": "name", "Returns": "type", "Raises": "error"}
_MARKUP = ((re.compile(r":\w+:`~?([^`]+)`"), r"`\1`"), (re.compile(r"``([^`]+)``"), r"`\1`"))


def reference() -> str:
    """Return the reference page as Markdown."""
    model = bitnet_numba.LanguageModel
    parts = [
        _entry("## load", bitnet_numba.load, "bitnet_numba.load", options=LoadOptions),
        _entry("## LanguageModel", model, ""),
        *(_entry(f"### {name}", method, f"model.{name}") for name, method in _methods(model)),
        _properties(model),
        _entry("## SamplingParams", bitnet_numba.SamplingParams, "bitnet_numba.SamplingParams"),
        *(_entry(f"## {kind.__name__}", kind, "") for kind in _RESULTS),
        ERRORS + "\n".join(_error_rows()),
    ]
    return "\n\n".join([HEADER.rstrip(), *parts]) + "\n"


def public_errors() -> list[type[errors.BitNetError]]:
    """Return the errors in the order of their module, the general one first."""
    kinds = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [kind for kind in kinds if issubclass(kind, errors.BitNetError)]


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods in the order of their source."""
    for name, value in vars(kind).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield name, value


def _properties(kind: type) -> str:
    rows = [
        f"| `{name}` | {_prose(inspect.getdoc(value) or '')} |"
        for name, value in vars(kind).items()
        if isinstance(value, property)
    ]
    return "### Properties\n\n| name | meaning |\n|---|---|\n" + "\n".join(rows)


def _entry(title: str, documented: Any, call: str, *, options: type | None = None) -> str:
    """Describe one name; ``call`` is how it is called, empty for a class that only the package itself makes.

    ``options`` is the class whose fields stand for the argument ``**options``.
    """
    (_, text), *sections = _sections(inspect.getdoc(documented) or "")
    parts = [title]
    if call:
        arguments = _arguments(documented)
        if options is not None:
            arguments = arguments.replace("**options", _arguments(options))
        parts.append(f"```python\n{call}({arguments})\n```")
    parts.append(_prose(text))
    for name, body in sections:
        if name == "Parameters" and options is not None:
            body = body.partition("**options")[0] + dict(_sections(inspect.getdoc(options) or ""))[name]
        if name in _FIRST_COLUMNS and (call or name == "Attributes"):
            parts.append(f"**{name}**\n\n" + "\n".join(_rows(_FIRST_COLUMNS[name], body)))
        elif name == "Examples":
            parts.append(f"```python\n{_session(body)}\n```")
    return "\n\n".join(parts)


def _sections(docstring: str) -> list[tuple[str, str]]:
    """Split a numpydoc docstring at its underlined headings; the text before them has the heading ''."""
    pieces = re.split(r"^(\w+)\n-{3,}\n", docstring, flags=re.MULTILINE)
    return [("", pieces[0].strip()), *zip(pieces[1::2], (body.strip("\n") for body in pieces[2::2]), strict=True)]


def _arguments(documented: Any) -> str:
    """Write a signature without types, which the table below it states."""
    made = {}
    if is_dataclass(documented):
        made = {each.name: each.default_factory() for each in fields(documented) if each.default_factory is not MISSING}
    signature = inspect.signature(documented)
    plain = [
        each.replace(annotation=each.empty, default=made.get(name, each.default))
        for name, each in signature.parameters.items()
        if name != "self"
    ]
    return str(inspect.Signature(plain))[1:-1].replace("''", '""')


def _rows(first_column: str, body: str) -> Iterator[str]:
    """Yield the lines of a table: an item is a line without indentation, its meaning is what is indented below."""
    yield f"| {first_column} | meaning |"
    yield "|---|---|"
    for item in re.split(r"\n(?=\S)", body):
        head, _, meaning = item.partition("\n")
        name, _, kind = head.partition(" : ")
        told = " ".join(filter(None, [f"*{_cell(kind)}.*" if kind else "", _prose(inspect.cleandoc(meaning))]))
        yield f"| `{_cell(name)}` | {_cell(told)} |"


def _session(body: str) -> str:
    """Turn an interactive example into a program, with an empty line after its imports."""
    lines = [re.sub(r"^(>>>|\.\.\.) ?", "", line) for line in inspect.cleandoc(body).splitlines()]
    program = "\n".join(line.replace("  # doctest: +SKIP", "") for line in lines)
    return re.sub(r"^(import .+\n)(?!import |\n)", r"\1\n", program, flags=re.MULTILINE)


def _error_rows() -> Iterator[str]:
    yield "| error | meaning | exit status |"
    yield "|---|---|---|"
    for kind in public_errors():
        parents = ", ".join(f"`{parent.__name__}`" for parent in kind.__bases__)
        yield f"| `{kind.__name__}` ({parents}) | {_prose(inspect.getdoc(kind) or '')} | {kind.exit_code} |"


def _prose(text: str) -> str:
    """Write running text as Markdown: paragraphs on one line each, reStructuredText's markup replaced."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    joined = "\n\n".join(paragraphs)
    for pattern, replacement in _MARKUP:
        joined = pattern.sub(replacement, joined)
    return joined


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n\n", " ")


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(reference(), encoding="utf-8")

"""The form of a document of evidence: its JSON Schema, the order of its fields, its canonical bytes."""

import functools
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from jsonschema import Draft7Validator, ValidationError, validators

from bitnet_numba.evidence.claims import Finding
from bitnet_numba.evidence.documents import dump


@functools.cache
def read_schema(package: str, name: str) -> dict[str, Any]:
    """Return a JSON Schema that lies in a package."""
    text = (files(package) / name).read_text("utf-8")
    schema: dict[str, Any] = json.loads(text, object_hook=_python_patterns)
    return schema


def _python_patterns(part: dict[str, Any]) -> dict[str, Any]:
    """Write patterns for Python, whose ``$`` also matches before a last newline, unlike that of JSON Schema."""
    if "patternProperties" in part:
        part["patternProperties"] = {_python_pattern(key): inner for key, inner in part["patternProperties"].items()}
    if isinstance(part.get("pattern"), str):
        part["pattern"] = _python_pattern(part["pattern"])
    return part


def _python_pattern(pattern: str) -> str:
    return f"{pattern[:-1]}\\Z" if pattern.endswith("$") else pattern


def check_form(document: Mapping[str, Any], data: bytes | None, schema: dict[str, Any], what: str) -> list[Finding]:
    """Return each violation of a schema, or that the document was edited.

    ``data`` are the bytes that it was read from; None for a document that people write, in any order and layout.
    """
    if data is None:
        return list(_violations(document, schema, what))
    findings = [*_violations(document, schema, what), *_check_order(what, document, schema)]
    if not findings and dump(dict(document)) != data:
        findings.append(Finding("file", "is not in the canonical form, so it was edited"))
    return findings


def _violations(document: Mapping[str, Any], schema: dict[str, Any], what: str) -> Iterator[Finding]:
    """Yield unknown and missing fields, values of another type or out of range."""
    validator = validators.extend(Draft7Validator, {"type": _check_type})(schema)
    for error in validator.iter_errors(document):
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        message = error.message if len(error.message) <= 160 else f"{error.message[:160]}..."
        yield Finding(place.removeprefix(".") or what, message)


def _check_order(place: str, value: object, schema: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield each object whose fields are out of order: that of the schema, or by name where that does not list them."""
    if not isinstance(value, Mapping):
        return
    listed: Mapping[str, Any] = {} if "patternProperties" in schema else schema.get("properties", {})
    order = [name for name in listed if name in value] if listed else sorted(value)
    if place != "sampling" and order != [name for name in value if not listed or name in listed]:
        yield Finding(place, "its fields are out of order")
    for name, inner in value.items():
        yield from _check_order(name, inner, listed.get(name, {}))


def _check_type(
    validator: Any, types: str | list[str], value: object, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Do what the keyword ``type`` does, but 1.0 is no whole number and 1 no float: each has one way to be written."""
    exact = {"integer": int, "number": float}
    named = [types] if isinstance(types, str) else types
    if not any(type(value) is exact[t] if t in exact else validator.is_type(value, t) for t in named):
        yield ValidationError(f"{value!r} is not of type {' or '.join(map(repr, named))}")

"""The JSON files of a model, of bounded size; each value has the type it must have, or the error names file and key."""

import json
from pathlib import Path
from typing import Any, cast

from bitnet_numba.errors import FormatError
from bitnet_numba.files import exists
from bitnet_numba.formats.mapping import map_file

MAX_BYTES = 16 << 20  # of config.json and the files like it
_RETRY = "get the file again"


class JsonObject:
    """A JSON object and its place: the file, and the key inside it where the object is not the whole file.

    The methods raise a FormatError for a missing key without a default and for a value of another type. null counts as
    missing, as it does for transformers.
    """

    def __init__(self, place: str, values: dict[str, Any]) -> None:
        self.place = place
        self.values = values

    def natural(self, key: str) -> int:
        """Return a whole number of at least 0."""
        value = self._get(key, None)
        if not _is_natural(value):
            raise self.error(key, value, "a whole number of at least 0")
        return cast("int", value)

    def naturals(self, key: str) -> list[int]:
        """Return one whole number of at least 0 or a list of them as a list; empty for a missing key."""
        value = self._get(key, [])
        numbers: list[Any] = value if isinstance(value, list) else [value]
        if not all(map(_is_natural, numbers)):
            raise self.error(key, value, "whole numbers of at least 0")
        return numbers

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, value, "a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def items(self, key: str) -> list[Any]:
        """Return a list; empty for a missing key."""
        value = self._get(key, [])
        if not isinstance(value, list):
            raise self.error(key, value, "a list")
        return value

    def inner(self, key: str) -> "JsonObject":
        """Return an object inside this one; empty for a missing key."""
        return as_object(f"{self.place}: {key}", self._get(key, {}))

    def objects(self, key: str) -> list["JsonObject"]:
        """Return a list of objects; empty for a missing key."""
        return [as_object(f"{self.place}: {key} {number}", item) for number, item in enumerate(self.items(key))]

    def error(self, key: str, value: object, expected: str) -> FormatError:
        """Return the error for an unexpected value."""
        found = "is missing" if value is None else f"is {ascii(value)[:40]}"
        return FormatError(f"{self.place}: {key} {found}, expected {expected}; {_RETRY}")

    def _get(self, key: str, default: object) -> object:
        value = self.values.get(key)
        return default if value is None else value


def as_object(place: str, value: object) -> JsonObject:
    """Wrap a parsed value; raises :class:`FormatError` if it is not an object."""
    if not isinstance(value, dict):
        raise FormatError(f"{place}: not a JSON object; {_RETRY}")
    return JsonObject(place, cast("dict[str, Any]", value))


def read_json(path: Path, *, max_bytes: int = MAX_BYTES, if_missing: str = "check the path") -> JsonObject:
    """Read a file that holds one JSON object; ``if_missing`` is the remedy for a missing file.

    Raises FormatError if it is missing, larger than ``max_bytes``, or not a JSON object; BitNetError if unreadable.
    """
    if not exists(path):
        raise FormatError(f"{path}: no such file; {if_missing}")
    contents = map_file(path)
    if contents.size > max_bytes:
        raise FormatError(f"{path}: has {contents.size:,} bytes, at most {max_bytes:,} are read; {_RETRY}")
    return parse_object(contents.tobytes(), str(path))


def read_json_if_present(path: Path) -> JsonObject:
    """Read a JSON file that a model may do without; a missing one is an empty object."""
    return read_json(path) if exists(path) else JsonObject(str(path), {})


def parse_object(data: bytes, place: str, *, strict: bool = False) -> JsonObject:
    """Parse a JSON object; a FormatError begins with ``place``.

    ``strict`` follows the rules of safetensors headers: no space before the object, no key twice, and no numbers but
    whole ones from 0 on.
    """
    rules: dict[str, Any] = {"object_pairs_hook": unique_keys, "parse_int": _natural, "parse_constant": _natural}
    if strict and not data.startswith(b"{"):
        raise FormatError(f"{place}: not a JSON object; {_RETRY}")
    try:
        return as_object(place, json.loads(data.decode("utf-8"), **(rules if strict else {})))
    except UnicodeDecodeError as error:
        raise FormatError(f"{place}: not UTF-8 after {error.start:,} bytes; {_RETRY}") from error
    except RecursionError as error:
        raise FormatError(f"{place}: not JSON: nested too deep; {_RETRY}") from error
    except ValueError as error:
        raise FormatError(f"{place}: not JSON: {error}; {_RETRY}") from error


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object, and refuse a second value for a key."""
    built: dict[str, object] = {}
    for key, value in pairs:
        if key in built:
            raise ValueError(f"the key {key[:256]!r} occurs twice")
        built[key] = value
    return built


def _natural(text: str) -> int:
    """Convert a whole number that fits 64 bits; no other number has a meaning in these files."""
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"the number {text[:20]} is not a whole number of 64 bits")
    return int(text)

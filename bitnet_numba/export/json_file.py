"""The JSON files of a checkpoint, read so that every error names the file and the key."""

import json
import math
from pathlib import Path
from typing import Any, cast

from bitnet_numba.errors import FormatError
from bitnet_numba.formats.mapping import map_file

MAX_BYTES = 64 << 20  # Llama 3's tokenizer.json, the largest known, has 17 MB


class JsonObject:
    """An object out of a JSON file, with the place it comes from.

    Attributes
    ----------
    place : str
        File, and the key inside it where the object is not the whole file.
    values : dict
        As parsed.
    """

    def __init__(self, place: str, values: dict[str, Any]) -> None:
        self.place = place
        self.values = values

    def natural(self, key: str, default: int | None = None) -> int:
        """Return a whole number of at least zero.

        Raises
        ------
        FormatError
            If it is anything else, or is missing and has no default.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(key, value, "a whole number of at least 0")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """Return a whole number of at least one; see :meth:`natural`."""
        value = self.natural(key, default)
        if value == 0:
            raise self.error(key, value, "a whole number of at least 1")
        return value

    def positive_number(self, key: str) -> float:
        """Return a finite number above zero.

        Raises
        ------
        FormatError
            If it is anything else, or missing.
        """
        value = self._get(key, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.error(key, value, "a finite number above 0")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string.

        Raises
        ------
        FormatError
            If it is anything else, or is missing and has no default.
        """
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, value, "a string")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return true or false.

        Raises
        ------
        FormatError
            If it is anything else, or is missing and has no default.
        """
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def items(self, key: str) -> list[Any]:
        """Return a list, empty where the key is missing.

        Raises
        ------
        FormatError
            If it is anything else.
        """
        value = self._get(key, [])
        if not isinstance(value, list):
            raise self.error(key, value, "a list")
        return value

    def inner(self, key: str) -> "JsonObject":
        """Return an object inside this one, empty where the key is missing.

        Raises
        ------
        FormatError
            If it is anything else.
        """
        return as_object(f"{self.place}: {key}", self._get(key, {}))

    def error(self, key: str, value: object, expected: str) -> FormatError:
        """Return the error for a value that is not what was expected."""
        found = "is missing" if value is None else f"is {ascii(value)[:40]}"
        return FormatError(f"{self.place}: {key} {found}, expected {expected}; get the checkpoint's own file again")

    def _get(self, key: str, default: object) -> object:
        """Return a value; null counts as missing, as it does for transformers."""
        value = self.values.get(key)
        return default if value is None else value


def as_object(place: str, value: object) -> JsonObject:
    """Wrap a parsed value that must be an object.

    Raises
    ------
    FormatError
        If it is not one.
    """
    if not isinstance(value, dict):
        raise FormatError(f"{place}: not a JSON object; get the checkpoint's own file again")
    return JsonObject(place, cast("dict[str, Any]", value))


def read_text(path: Path) -> str:
    """Read a whole text file.

    Raises
    ------
    BitNetError
        If it is missing or cannot be read.
    FormatError
        If it is larger than 64 MiB, or not UTF-8.
    """
    contents = map_file(path)
    if contents.size > MAX_BYTES:
        raise FormatError(f"{path}: has {contents.size:,} bytes, at most {MAX_BYTES:,}; get the file again")
    try:
        return contents.tobytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start:,} is not UTF-8; get the file again") from error


def read_json(path: Path) -> JsonObject:
    """Read a file that holds one JSON object.

    Raises
    ------
    BitNetError
        If it is missing or cannot be read.
    FormatError
        If it is larger than 64 MiB, or not a JSON object.
    """
    text = read_text(path)
    try:
        return as_object(str(path), json.loads(text))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {str(error)[:80]}; get the file again") from error


def read_json_if_present(path: Path) -> JsonObject:
    """Read a file that a checkpoint may do without; a missing one reads as an empty object."""
    return read_json(path) if path.exists() else JsonObject(str(path), {})

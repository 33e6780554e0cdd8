"""JSON documents of evidence, in one form: strangers' files are read strictly, and ours are written canonically.

The canonical form is pretty-printed with two spaces, ASCII, one newline at the end, and keys in the order in which they
were put; a document in any other form was edited.
"""

import json
import math
from pathlib import Path
from typing import Any

from bitnet_numba.errors import BitNetError, EvidenceUnreadableError
from bitnet_numba.files import atomic_write, exists
from bitnet_numba.formats.json_file import unique_keys
from bitnet_numba.formats.mapping import map_file

MAX_BYTES = 16 << 20
MAX_DEPTH = 16
_MAX_DIGITS = 40


def dump(document: dict[str, Any]) -> bytes:
    """Return a document in its canonical form; ValueError for a number that is not finite."""
    return json.dumps(document, indent=2, allow_nan=False).encode("ascii") + b"\n"


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a document in its canonical form, whole or not at all."""
    with atomic_write(path) as file:
        file.write(dump(document))


def read_document(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a JSON object and its bytes; see :func:`parse_document`."""
    if not exists(path):
        raise EvidenceUnreadableError(f"{path}: no such file; check the path")
    try:
        contents = map_file(path)
    except BitNetError as error:  # a device, a folder: unreadable like what is no JSON
        raise EvidenceUnreadableError(str(error)) from error
    if contents.size > MAX_BYTES:
        raise EvidenceUnreadableError(f"{path}: has {contents.size:,} bytes, at most {MAX_BYTES:,} are read")
    data = contents.tobytes()
    return parse_document(data, str(path)), data


def parse_document(data: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object without duplicate keys, numbers that are not finite, or more than 16 levels.

    Raises
    ------
    EvidenceUnreadableError
        Naming ``place`` and what is wrong.
    """
    remedy = "get the file again"
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique_keys,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
        if _depth(document) > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels")
    except UnicodeDecodeError as error:
        raise EvidenceUnreadableError(f"{place}: not UTF-8 after {error.start:,} bytes; {remedy}") from error
    except RecursionError as error:
        raise EvidenceUnreadableError(f"{place}: more than {MAX_DEPTH} levels; {remedy}") from error
    except ValueError as error:
        raise EvidenceUnreadableError(f"{place}: not JSON as it is read here: {error}; {remedy}") from error
    if not isinstance(document, dict):
        raise EvidenceUnreadableError(f"{place}: not a JSON object; {remedy}")
    return document


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:_MAX_DIGITS]} is not finite")
    return value


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)

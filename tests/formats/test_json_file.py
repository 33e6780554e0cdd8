"""The reader of JSON files: bounded, typed, and errors that name file and key."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_numba.errors import BitNetError, FormatError
from bitnet_numba.formats.json_file import JsonObject, parse_object, read_json, read_json_if_present

TOY: dict[str, Any] = {
    "size": 3,
    "ids": [1, 2],
    "name": "toy",
    "on": True,
    "nothing": None,
    "inner": {"list": [{"a": 1}, 7]},
}
Read = Callable[[JsonObject], object]

# name: (what is read, its value)
GOOD: dict[str, tuple[Read, object]] = {
    "a number": (lambda toy: toy.natural("size"), 3),
    "a number as a list": (lambda toy: toy.naturals("size"), [3]),
    "numbers": (lambda toy: toy.naturals("ids"), [1, 2]),
    "no numbers": (lambda toy: toy.naturals("missing"), []),
    "text": (lambda toy: toy.text("name"), "toy"),
    "text that is null": (lambda toy: toy.text("nothing", "default"), "default"),
    "a flag": (lambda toy: toy.flag("on", default=False), True),
    "no flag": (lambda toy: toy.flag("off", default=False), False),
    "a list": (lambda toy: toy.inner("inner").items("list"), [{"a": 1}, 7]),
    "no object": (lambda toy: toy.inner("missing").values, {}),
}
# name: (what is read, the beginning of the message)
BAD: dict[str, tuple[Read, str]] = {
    "no number": (lambda toy: toy.natural("missing"), "x.json: missing is missing, expected a whole number"),
    "true for a number": (lambda toy: toy.natural("on"), "x.json: on is True, expected a whole number"),
    "text among numbers": (lambda toy: toy.naturals("name"), "x.json: name is 'toy', expected whole numbers"),
    "no text": (lambda toy: toy.text("nothing"), "x.json: nothing is missing, expected a string"),
    "a number for text": (lambda toy: toy.text("size"), "x.json: size is 3, expected a string"),
    "a number for a flag": (lambda toy: toy.flag("size", default=True), "x.json: size is 3, expected true or false"),
    "an object for a list": (lambda toy: toy.items("inner"), "x.json: inner is {'list'"),
    "a list for an object": (lambda toy: toy.inner("ids"), "x.json: ids: not a JSON object"),
    "a number among objects": (lambda toy: toy.inner("inner").objects("list"), "x.json: inner: list 1: not a JSON"),
}


@pytest.mark.parametrize("name", GOOD)
def test_values_have_the_type_asked_for(name: str) -> None:
    read, expected = GOOD[name]
    assert read(JsonObject("x.json", TOY)) == expected


@pytest.mark.parametrize("name", BAD)
def test_other_types_are_refused_by_file_and_key(name: str) -> None:
    read, words = BAD[name]
    with pytest.raises(FormatError) as caught:
        read(JsonObject("x.json", TOY))
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("; get the file again")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as sparse:
        sparse.truncate(1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"huge\.json: has 1,073,741,824 bytes, at most 16,777,216 are read"):
            read_json(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_missing_file_has_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"x\.json: no such file; make one"):
        read_json(tmp_path / "x.json", if_missing="make one")
    assert read_json_if_present(tmp_path / "x.json").values == {}
    (tmp_path / "x.json").mkdir()
    with pytest.raises(BitNetError, match="is not a regular file"):
        read_json_if_present(tmp_path / "x.json")


def test_strict_rules_are_those_of_safetensors_headers() -> None:
    for loose in (b' {"a": 1}', b'{"a": 1, "a": 2}', b'{"a": -1}', b'{"a": NaN}'):
        assert list(parse_object(loose, "place").values) == ["a"]
        with pytest.raises(FormatError, match=r"^place: "):
            parse_object(loose, "place", strict=True)

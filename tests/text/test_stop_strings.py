"""Stop strings against a naive twin that sees the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.text.stop_strings import StopScanner


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    places = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(places)], True) if places else (text, False)


def scan(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    scanner = StopScanner(stops)
    given_out = [scanner.push(piece) for piece in pieces]
    return [*given_out, scanner.finish()], scanner.found is not None


few_letters = st.text("ab", min_size=1, max_size=4)  # so that stop strings are found, overlap and nest


@given(pieces=st.lists(st.text("ab", max_size=4), max_size=12), stops=st.lists(few_letters, max_size=4))
def test_any_split_gives_the_text_up_to_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    given_out, stopped = scan(pieces, stops)
    assert ("".join(given_out), stopped) == cut("".join(pieces), stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["a", "b", "c"], [], ["a", "b", "c", ""]),
        (["text<", "end", ">more"], ["<end>"], ["text", "", "", ""]),
        (["text<", "else"], ["<end>"], ["text", "<else", ""]),
        (["text<en"], ["<end>"], ["text", "<en"]),
        (["xbc", "e"], ["bcd"], ["x", "bce", ""]),
        (["abc", "d"], ["abcd", "bc"], ["", "", ""]),  # the one that begins first, though the other ends first
        (["abc", "x"], ["abcd", "bc"], ["", "a", ""]),
        (["abc"], ["abcd", "bc"], ["", "a"]),
        (["é", "\n", "\nUser:"], ["\n\nUser:"], ["é", "", "", ""]),
    ],
)
def test_holds_back_no_more_than_it_must(pieces: list[str], stops: list[str], expected: list[str]) -> None:
    assert scan(pieces, stops)[0] == expected


def test_swallows_everything_after_a_stop() -> None:
    scanner = StopScanner(["."])
    assert [scanner.push("a.b"), scanner.push("c"), scanner.finish()] == ["a", "", ""]
    assert scanner.found == "."

"""Judgement of generated text."""

import re

import pytest

from bitnet_numba.validate.language import CAPITALS, judge_answers, judge_code, judge_prose

STORY = (
    "there was a little girl named Lily. She loved to play outside in the sun. One day, she saw a big, red ball in the"
    " park. She wanted to play with it, but she was too small to reach it."
)
RUSSIAN = (
    "Жила-была маленькая девочка по имени Маша. Она любила играть на улице, а зимой ходила в лес и смотрела, как падает"
    " снег на старые деревья у реки."
)


def knows(word: str) -> bool:
    """Tell whether a word is short, or one of the story: a dictionary good enough for these tests."""
    return len(word) < 4 or word in STORY


def test_prose_passes() -> None:
    assert judge_prose([STORY], knows) == []
    assert judge_prose([RUSSIAN], knows) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "0 words in 1 texts"),
        ("word " * 12, "12 words"),
        (STORY.replace("a", "\x02"), "unreadable"),
        (STORY.replace("e", "\ufffd"), "unreadable"),
        (RUSSIAN.replace("а", "a"), "mix scripts"),
        ("the the ball is is red " * 8, "repeat the one before"),
        (STORY.replace("a", "axqa"), "none that the vocabulary knows"),
    ],
)
def test_gibberish_does_not(text: str, problem: str) -> None:
    problems = judge_prose([text], knows)
    assert any(problem in each for each in problems), problems


def test_prose_alone_has_a_stricter_limit() -> None:
    text = STORY + " Grumblewick flonkered snazzleton"
    assert judge_prose([text], knows) == []
    assert judge_prose([text], knows, max_unknown=0.05) != []


@pytest.mark.parametrize(("n_right", "passes"), [(40, True), (32, True), (31, False), (1, False), (0, True)])
def test_capitals_are_known_or_not(n_right: int, passes: bool) -> None:
    spelled = [re.sub(r"\[(.).\]|\|.*", r"\1", capital) for capital in CAPITALS.values()]  # the first that will do
    said = [f" {capital}. It is" if n < n_right else " Tokyang" for n, capital in enumerate(spelled)]
    answers = dict(zip(CAPITALS, said, strict=True))
    found, problems = judge_answers(answers)
    assert (found, not problems) == (n_right, passes)


GOOD = "\n    if n == 0:\n        return 1\n    return n * factorial(n - 1)\n"


@pytest.mark.parametrize(
    ("text", "is_complete", "passes"),
    [
        (GOOD, True, True),
        (GOOD + "\nprint(factorial(5))\nAnd this is ] no Python", False, True),
        (GOOD + "    if n ==", False, True),  # cut by the limit
        (GOOD + "    if n ==", True, False),
        (GOOD.replace("(n - 1)", "(n - 1]"), True, False),
        (GOOD.replace("n == 0:", "n\n"), True, False),
        (GOOD.replace("1\n", "1  # \0\n", 1), True, False),
        (GOOD.replace("n == 0", 'n == "\\d"'), True, True),
        (" Once upon a time ]", True, True),  # no claim to be code
        ('\n    """Return the\n    return value', False, True),  # a docstring that the limit cut
    ],
)
def test_code_can_be_parsed(text: str, is_complete: bool, passes: bool) -> None:
    assert (judge_code("def factorial(n):", text, is_complete=is_complete) == []) is passes

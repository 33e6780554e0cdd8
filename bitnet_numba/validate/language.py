"""Is it language? What generated text, and nothing else, tells of the model that wrote it."""

import ast
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

CAPITALS: Mapping[str, str] = {
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Germany": "Berlin",
    "Russia": "Moscow",
    "Spain": "Madrid",
    "China": "Beijing",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Ireland": "Dublin",
    "Poland": "Warsaw",
    "Cuba": "Havana",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Turkey": "Ankara",
    "India": "Delhi",
    "Argentina": "Buenos Aires",
    "Hungary": "Budapest",
    "France": "Paris",
    "Brazil": "Bras[ií]lia",
    "Canada": "Ottawa",
    "Thailand": "Bangkok",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Finland": "Helsinki",
    "Belgium": "Brussels",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ukraine": "Kyiv|Kiev",
    "Denmark": "Copenhagen",
    "South Korea": "Seoul",
    "Vietnam": "Hanoi",
    "Colombia": "Bogot[aá]",
    "Chile": "Santiago",
    "Venezuela": "Caracas",
    "Lebanon": "Beirut",
    "Syria": "Damascus",
    "Bulgaria": "Sofia",
    "Romania": "Bucharest",
}
"""Questions that models either were never taught, or answer; a damaged one invents names. Answers are patterns."""

MIN_KNOWN = 32
"""Right answers of a healthy model that knows capitals at all."""
MAX_IGNORANT = 0
"""Right answers of a model that was never taught any; its prose is then held to more."""

MAX_UNREADABLE = 0.02  # characters
MAX_MIXED = 0.05  # words of more than one script
MAX_STUTTER = 0.12  # words that repeat the one before
MAX_UNKNOWN = 0.30  # words that are no single token, where they are written in Latin letters
MAX_UNKNOWN_ALONE = 0.10  # the same, where prose is all there is to judge by
MIN_WORDS = 20

IsToken = Callable[[str], bool]

_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-z]+")
_CODE = re.compile(r"^\s+return\b", re.MULTILINE)
_DOCSTRING = re.compile(r"\"\"\"|'''")


def judge_prose(texts: Sequence[str], is_token: IsToken, *, max_unknown: float = MAX_UNKNOWN) -> list[str]:
    """Say what keeps texts from being prose in any language.

    Parameters
    ----------
    texts : sequence of str
    is_token : callable
        Tells whether the tokenizer has a word as one token: its vocabulary serves as a dictionary.
    max_unknown : float
        The share of words that it may not have.

    Returns
    -------
    list of str
        Empty if it is prose.
    """
    letters = "".join(texts)
    words = [_WORD.findall(text) for text in texts]
    n_words = sum(map(len, words))
    if n_words < MIN_WORDS:
        return [f"{n_words} words in {len(texts)} texts, expected at least {MIN_WORDS}"]
    latin = [word for text in words for word in text if _LATIN.fullmatch(word)]
    stutters = sum(first.lower() == second.lower() for text in words for first, second in pairwise(text))
    shares = [
        ("of the characters are unreadable", sum(map(_is_unreadable, letters)) / len(letters), MAX_UNREADABLE),
        ("of the words mix scripts", sum(_is_mixed(word) for text in words for word in text) / n_words, MAX_MIXED),
        ("of the words repeat the one before", stutters / n_words, MAX_STUTTER),
    ]
    if len(latin) >= MIN_WORDS:
        unknown = sum(not (is_token(word) or is_token(word.lower())) for word in latin) / len(latin)
        shares.append(("of the words are none that the vocabulary knows", unknown, max_unknown))
    return [f"{share:.0%} {what}, at most {most:.0%} may" for what, share, most in shares if share > most]


def judge_answers(answers: Mapping[str, str]) -> tuple[int, list[str]]:
    """Count the capitals that are right, and say what keeps the answers from being a model's that knows any.

    Parameters
    ----------
    answers : mapping of str to str
        What followed ``The capital of X is``, for every country X of ``CAPITALS``.

    Returns
    -------
    int
    list of str
        Empty if most answers are right, or none.
    """
    wrong = [country for country, capital in CAPITALS.items() if not re.search(capital, answers[country])]
    n_right = len(CAPITALS) - len(wrong)
    if not MAX_IGNORANT < n_right < MIN_KNOWN:
        return n_right, []
    example = " ".join(answers[wrong[0]].split())
    return n_right, [
        f"{n_right} of {len(CAPITALS)} capitals are right, a healthy model knows {MIN_KNOWN} or none: "
        f"that of {wrong[0]} is said to be {example!a}"
    ]


def judge_code(prompt: str, text: str, *, is_complete: bool) -> list[str]:
    """Say what keeps a Python function from being one; a text that returns nothing does not claim to be code.

    Parameters
    ----------
    prompt : str
        The line that begins the function.
    text : str
        What was generated after it.
    is_complete : bool
        Whether the model ended the text itself; else its last line may be cut.

    Returns
    -------
    list of str
        Empty if the function can be parsed, or is none.
    """
    lines = text.split("\n")
    body = lines[:1]
    for line in lines[1:] if is_complete else lines[1:-1]:
        if line.strip() and not line[0].isspace():
            break  # what follows the function
        body.append(line)
    function = prompt + "\n".join(body)
    if not _CODE.search(function) or len(_DOCSTRING.findall(function)) % 2:
        return []
    try:
        with warnings.catch_warnings(action="ignore"):  # such as for "\d" in a text
            ast.parse(function)
    except (SyntaxError, ValueError):  # the latter for a byte of zero
        return ["a Python function that it wrote is no Python"]  # where is told differently by each version
    return []


def _is_unreadable(character: str) -> bool:
    return character == "\ufffd" or (
        unicodedata.category(character) in ("Cc", "Cn", "Co") and character not in "\n\r\t"
    )


def _is_mixed(word: str) -> bool:
    """Tell whether letters of two alphabets stand in one word."""
    if word.isascii():
        return False
    scripts = {unicodedata.name(letter, "?").partition(" ")[0] for letter in word}
    japanese = {"HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"}
    return len(scripts) > 1 and not scripts <= japanese

"""Judge generated text without a reference: is it prose, are the facts known, does the code parse?"""

import ast
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

# Capitals that a model knows, or was never taught; a damaged model invents names. Answers are regular expressions.
_CAPITALS = (
    "Italy: Rome, Japan: Tokyo, Germany: Berlin, Russia: Moscow, Spain: Madrid, China: Beijing, Egypt: Cairo, "
    "Greece: Athens, Portugal: Lisbon, Austria: Vienna, Ireland: Dublin, Poland: Warsaw, Cuba: Havana, "
    "Norway: Oslo, Sweden: Stockholm, Turkey: Ankara, India: Delhi, Argentina: Buenos Aires, Hungary: Budapest, "
    "France: Paris, Brazil: Bras[ií]lia, Canada: Ottawa, Thailand: Bangkok, Kenya: Nairobi, Peru: Lima, "
    "Finland: Helsinki, Belgium: Brussels, Iran: Tehran, Iraq: Baghdad, Ukraine: Kyiv|Kiev, Denmark: Copenhagen, "
    "South Korea: Seoul, Vietnam: Hanoi, Colombia: Bogot[aá], Chile: Santiago, Venezuela: Caracas, "
    "Lebanon: Beirut, Syria: Damascus, Bulgaria: Sofia, Romania: Bucharest"
)
CAPITALS = {country: capital for country, _, capital in (each.partition(": ") for each in _CAPITALS.split(", "))}

MIN_KNOWN = 32  # right answers of a healthy model that was taught capitals
MAX_IGNORANT = 0  # right answers of one that was not; its prose then has a stricter limit

MAX_UNREADABLE = 0.02  # share of characters
MAX_MIXED = 0.05  # share of words with more than one script
MAX_STUTTER = 0.12  # share of words that repeat the one before
MAX_UNKNOWN = 0.30  # share of Latin words that are no single token
MAX_UNKNOWN_ALONE = 0.10  # the same for a model that knows no capitals
MIN_WORDS = 20

IsToken = Callable[[str], bool]

_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-z]+")
_CODE = re.compile(r"^\s+return\b", re.MULTILINE)
_DOCSTRING = re.compile(r"\"\"\"|'''")


def judge_prose(texts: Sequence[str], is_token: IsToken, *, max_unknown: float = MAX_UNKNOWN) -> list[str]:
    """Return why texts are not prose in any language; empty if they are.

    ``is_token`` uses the tokenizer's vocabulary as a dictionary: it tells whether a word is one token.
    ``max_unknown`` is the share of words that may be missing there.
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
    """Return the number of right capitals, and a problem unless most are right or none.

    ``answers`` holds the text after ``The capital of X is`` for each country X of ``CAPITALS``.
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
    """Return a problem if ``prompt + text`` begins a Python function that cannot be parsed.

    Text without a ``return`` is not taken for code. Unless ``is_complete``, the last line was cut by the token limit.
    """
    lines = text.split("\n")
    body = lines[:1]
    for line in lines[1:] if is_complete else lines[1:-1]:
        if line.strip() and not line[0].isspace():
            break  # the function has ended
        body.append(line)
    function = prompt + "\n".join(body)
    if not _CODE.search(function) or len(_DOCSTRING.findall(function)) % 2:
        return []
    try:
        with warnings.catch_warnings(action="ignore"):  # "\d" in a string
            ast.parse(function)
    except (SyntaxError, ValueError):  # ValueError: a NUL byte
        return ["a Python function that it wrote is no Python"]  # Python versions differ in the place they report
    return []


def _is_unreadable(character: str) -> bool:
    return character == "\ufffd" or (
        unicodedata.category(character) in ("Cc", "Cn", "Co") and character not in "\n\r\t"
    )


def _is_mixed(word: str) -> bool:
    """Tell whether a word mixes alphabets."""
    if word.isascii():
        return False
    scripts = {unicodedata.name(letter, "?").partition(" ")[0] for letter in word}
    japanese = {"HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"}
    return len(scripts) > 1 and not scripts <= japanese

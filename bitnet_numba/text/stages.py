"""The normalizer and pre-tokenizer of a tokenizer.json: listed stages with checked fields, linear in the text."""

import re
from math import prod
from typing import Any, Final

from bitnet_numba.errors import UnsupportedError, excerpt
from bitnet_numba.formats.json_file import JsonObject
from bitnet_numba.text.vocabulary import GPT2_PATTERN, LLAMA3_PATTERN

Stage = dict[str, Any]

MAX_STAGES: Final = 8
MAX_STAGE_TEXT: Final = 32
MAX_BACKTRACKING: Final = 1000  # ways in which one place of a text can match a pattern
_USE_GGUF: Final = "use the model's GGUF file"
_INNER: Final = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
_BEHAVIORS: Final = ("Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext")

# Of Qwen 2, GPT-4o, and Mistral's Tekken: alternatives that leave no long run for the next place to read again.
_CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_OF_CASES = rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}*{_CASED[1]}+%s|[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}+{_CASED[1]}*%s|"
_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
KNOWN_PATTERNS: Final = frozenset(
    {
        LLAMA3_PATTERN,
        GPT2_PATTERN,
        LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"),
        _OF_CASES % (_CONTRACTION, _CONTRACTION) + r"\p{N}{1,3}" + _REST,
        _OF_CASES % ("", "") + r"\p{N}" + _REST,
    }
)
# One class of characters after the other, of which only the last may repeat without end: no place is read twice.
_CLASS = r"\\[pP]\{\^?\w+\}", r"\[\^?(?:\\[pP]\{\^?\w+\}|\\[^pP]|[^\[\]\\&])+\]"
_ATOM: Final = rf"(?:{'|'.join(_CLASS)}|\\[dDsSwWrnt.|$+*?()\[\]{{}}^]|[^\\\[\](){{}}^$|*+?])"
_COUNT: Final = r"(?:\?|\{\d{1,2}(?:,\d{1,2})?\})?"
_SIMPLE_PATTERN: Final = re.compile(f"(?:{_ATOM}{_COUNT})*{_ATOM}(?:[+*]|{_COUNT})")
_RANGES: Final = re.compile(r"\?|\{(\d+),(\d+)\}")


def checked_stages(document: JsonObject, stage: str) -> list[Stage]:
    """Return the steps of a tokenizer's ``normalizer`` or ``pre_tokenizer``, rebuilt from fields that are known.

    The ``tokenizers`` package trusts its files: it takes patterns that backtrack for ever, replacements that double a
    text, and tables that it reads out of bounds. UnsupportedError for a stage that is not listed here.
    """
    outer = document.inner(stage)
    inner = _INNER[stage]
    is_sequence = outer.text("type", "") == "Sequence" or inner in outer.values
    steps = outer.objects(inner) if is_sequence else [outer] if outer.values else []
    if len(steps) > MAX_STAGES:
        raise UnsupportedError(f"{outer.place}: {len(steps):,} steps; at most {MAX_STAGES} are read; {_USE_GGUF}")
    rebuild = _normalizer if stage == "normalizer" else _pre_tokenizer
    return [rebuild(step) for step in steps]


def _normalizer(step: JsonObject) -> Stage:
    kind = step.text("type", "")
    if kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        return {"type": kind}
    if kind == "Prepend":
        return {"type": kind, "prepend": _short_text(step, "prepend")}
    if kind == "Replace":
        pattern, content = _short_text(step.inner("pattern"), "String"), step.text("content")
        if len(content) > len(pattern):
            raise _refusal(step, f"replaces {excerpt(pattern)} by a longer text")
        return {"type": kind, "pattern": {"String": pattern}, "content": content}
    raise _refusal(step, f"of type {excerpt(kind)}")


def _pre_tokenizer(step: JsonObject) -> Stage:
    kind = step.text("type", "")
    if kind == "ByteLevel":
        flags = ("add_prefix_space", "trim_offsets", "use_regex")
        return {"type": kind, **{name: step.flag(name, default=True) for name in flags}}
    if kind == "Split":
        behavior, invert = _choice(step, "behavior", _BEHAVIORS), step.flag("invert", default=False)
        return {"type": kind, "pattern": _pattern(step.inner("pattern")), "behavior": behavior, "invert": invert}
    if kind == "Digits":
        return {"type": kind, "individual_digits": step.flag("individual_digits", default=False)}
    if kind == "Punctuation":
        return {"type": kind, "behavior": _choice(step, "behavior", _BEHAVIORS, "Isolated")}
    if kind == "Metaspace":
        replacement = step.text("replacement", "▁")
        if len(replacement) != 1:
            raise _refusal(step, f"with the replacement {excerpt(replacement)}")
        adds_space = step.flag("add_prefix_space", default=True)
        scheme = _choice(step, "prepend_scheme", ("always", "first", "never"), "always" if adds_space else "never")
        split = step.flag("split", default=True)
        return {"type": kind, "replacement": replacement, "prepend_scheme": scheme, "split": split}
    raise _refusal(step, f"of type {excerpt(kind)}")


def _pattern(pattern: JsonObject) -> Stage:
    """Return a pattern that needs time in proportion to the text: known as a whole, or simple."""
    if "String" in pattern.values:
        return {"String": _short_text(pattern, "String")}
    regex = pattern.text("Regex")
    if regex not in KNOWN_PATTERNS:
        ranges = _RANGES.findall(regex)
        ways = prod(2 if not low else int(high) - int(low) + 1 for low, high in ranges) if len(regex) <= 256 else 0
        if not (1 <= ways <= MAX_BACKTRACKING and _SIMPLE_PATTERN.fullmatch(regex)):
            raise _refusal(pattern, excerpt(regex))
    return {"Regex": regex}


def _short_text(step: JsonObject, key: str) -> str:
    text = step.text(key)
    if not 1 <= len(text) <= MAX_STAGE_TEXT:
        raise _refusal(step, f"with a {key} of {len(text):,} characters")
    return text


def _choice(step: JsonObject, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    value = step.text(key, default)
    if value not in allowed:
        raise _refusal(step, f"with {key} {excerpt(value)}")
    return value


def _refusal(step: JsonObject, what: str) -> UnsupportedError:
    return UnsupportedError(f"{step.place}: a stage {what} is not read; {_USE_GGUF}")

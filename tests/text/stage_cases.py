"""Stages of a tokenizer.json as data: what models use, and what would hang, crash or fill the tokenizers package."""

import base64
from typing import Any

from bitnet_numba.text.vocabulary import GPT2_PATTERN, LLAMA3_PATTERN

Stage = dict[str, Any]
BYTE_LEVEL: Stage = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
QWEN2_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")


def split(behavior: str = "Isolated", **pattern: str) -> Stage:
    step = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [step, BYTE_LEVEL]}}


def before(step: Stage) -> Stage:
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [step, BYTE_LEVEL]}}


def table(data: bytes) -> Stage:
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}}


def replaced(pattern: Stage, content: str) -> Stage:
    return {"normalizer": {"type": "Replace", "pattern": pattern, "content": content}}


USED: dict[str, Stage] = {
    "Llama 3": split(Regex=LLAMA3_PATTERN),
    "GPT-2": split(Regex=GPT2_PATTERN),
    "Qwen 2": {"normalizer": {"type": "NFC"}, **split(Regex=QWEN2_PATTERN)},
    "three digits": split(Regex="[0-9][0-9][0-9]"),
    "numbers": split(Regex=r"\p{N}{1,3}"),
    "lines": split(Regex=r" ?[^\s\p{L}]+"),
    "a text": split("MergedWithPrevious", String="a"),
    "Falcon": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Punctuation", "behavior": "Contiguous"},
                BYTE_LEVEL,
                {"type": "Digits", "individual_digits": False},
                split(Regex="[0-9][0-9][0-9]")["pre_tokenizer"]["pretokenizers"][0],
            ],
        }
    },
    "alone": {"pre_tokenizer": BYTE_LEVEL},
}

REFUSED: dict[str, tuple[Stage, str]] = {
    "replacements that grow": (replaced({"String": "a"}, "aa"), "a longer text"),
    "a pattern that is replaced": (replaced({"Regex": "(a+)+$"}, "b"), "String is missing"),
    "fifty steps": ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 50}}, "50 steps"),
    "a long text before": ({"normalizer": {"type": "Prepend", "prepend": "x" * 10_000}}, "10,000 characters"),
    "a table of nothing": (table(b""), "Precompiled"),
    "a table out of bounds": (table(b"\xff" * 40), "Precompiled"),
    "sequences in sequences": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}},
        "type 'Sequence'",
    ),
    "Bert": ({"normalizer": {"type": "BertNormalizer"}}, "BertNormalizer"),
    "a normalizer that is text": ({"normalizer": "NFC"}, "not a JSON object"),
    "a list of numbers": ({"normalizer": {"type": "Sequence", "normalizers": [1]}}, "not a JSON object"),
    "nested quantifiers": (split(Regex="(a+)+$"), "(a+)+$"),
    "two ways": (split(Regex="(a|a)*b"), "(a|a)*b"),
    "a run read again from each place": (split(Regex="a*b"), "a*b"),
    "many ways": (split(Regex="a{0,99}a{0,99}b"), "a{0,99}"),
    "references": (split(Regex=r"(a*)\1b"), "(a*)"),
    "recursion": (split(Regex=r"(?<x>\g<x>a|a)"), "(?<x>"),
    "deep brackets": (split(Regex="(" * 100_000), "(((("),
    "many options": (split(Regex="a?" * 100 + "b"), "a?a?"),
    "an empty pattern": (split(Regex=""), "''"),
    "an empty text": (split(String=""), "0 characters"),
    "text that is dropped": (split("Removed", Regex="."), "Removed"),
    "pieces of no length": (before({"type": "FixedLength", "length": 0}), "FixedLength"),
    "a mark of two characters": (before({"type": "Metaspace", "replacement": "ab"}), "'ab'"),
    "an unknown scheme": (before({"type": "Metaspace", "prepend_scheme": "x"}), "'x'"),
    "a flag that is a number": (before({"type": "ByteLevel", "use_regex": 1}), "true or false"),
}

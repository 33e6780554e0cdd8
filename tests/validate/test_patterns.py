"""Patterns of a policy: what could match for ever is refused, what people write is taken."""

from pathlib import Path

import pytest

from bitnet_numba.errors import FormatError
from bitnet_numba.validate.policies import MAX_PATTERN, check_policy

POLICY = "version: 1\nrules:\n  bitnet:\n    ln:\n      - pattern: '{}'\n        min: 0.1\n        max: 2\n"


def checked(pattern: str, folder: Path) -> None:
    path = folder / "policy.yml"
    path.write_text(POLICY.format(pattern.replace("'", "''")), encoding="utf-8")
    check_policy(path)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)*b", "(.*)*x", "(?:a*){9}", r"(a)\1", "a*a*a*a*b", "(?=a)b", "a{1,9}b{2}c*d+", "x" * 201],
)
def test_a_pattern_that_could_match_for_ever_is_refused(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="could take too long to match"):
        checked(pattern, tmp_path)


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "[", "*", "(" * 3000 + ")" * 3000])
def test_what_is_no_pattern_is_one_line(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is not a regular expression|could take too long"):
        checked(pattern, tmp_path)


@pytest.mark.parametrize(
    "pattern",
    [
        r"attn_norm\.weight$",
        r".*norm\.weight$",
        r"(attn|ffn|rms).*norm\.weight",
        r"blk\.[0-9]+\..*norm",
        "final_(layer)?norm",
        r"\(a\)+",
    ],
)
def test_what_people_write_is_taken(pattern: str, tmp_path: Path) -> None:
    assert len(pattern) <= MAX_PATTERN
    checked(pattern, tmp_path)

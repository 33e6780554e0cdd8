"""The environment, read in one place."""

from pathlib import Path

import pytest

from bitnet_numba.errors import ParameterError
from bitnet_numba.settings import read_settings

TRUTHS = ("BITNET_STRICT_MODE", "BITNET_ALLOW_RUNTIME_CORRECTIONS", "BITNET_FIX_LN_SCALE")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TRUTHS, "BITNET_CORRECTION_POLICY", "CI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("1", True),
        ("true", True),
        ("YES", True),
        (" On ", True),
        ("0", False),
        ("False", False),
        ("no", False),
        ("", False),
    ],
)
def test_truth_values(text: str, truth: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRUTHS:
        monkeypatch.setenv(name, text)
    settings = read_settings()
    assert [settings.strict, settings.allows_corrections, settings.fixes_norm_scale] == [truth] * 3


@pytest.mark.parametrize("name", TRUTHS)
def test_a_value_without_meaning_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "maybe")
    with pytest.raises(ParameterError, match=f"{name}=maybe: expected 1, true, yes, on"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("BITNET_NUM_THREADS", "0", "a whole number from 1 to 256"),
        ("BITNET_NUM_THREADS", "257", "a whole number from 1 to 256"),
        ("BITNET_NUM_THREADS", "two", "a whole number from 1 to 256"),
        ("BITNET_NUM_THREADS", "9" * 5000, "a whole number from 1 to 256"),
        ("BITNET_SEED", "-1", "a whole number from 0 to 18446744073709551615"),
        ("BITNET_SEED", "1.5", "a whole number from 0 to 18446744073709551615"),
    ],
)
def test_a_number_has_the_range_of_its_option(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ParameterError, match=f"^{name}=.*: expected {expected}; correct or unset it$"):
        read_settings()


def test_numbers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITNET_NUM_THREADS", " 3 ")
    monkeypatch.setenv("BITNET_SEED", str(2**64 - 1))
    assert (read_settings().threads, read_settings().seed) == (3, 2**64 - 1)


@pytest.mark.parametrize(("text", "in_ci"), [("true", True), ("woodpecker", True), ("false", False), ("", False)])
def test_ci_is_what_systems_make_of_it(text: str, in_ci: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", text)
    assert read_settings().in_ci is in_ci


def test_correction_variables_that_ask_for_something(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().correction_variables() == ()
    monkeypatch.setenv("BITNET_FIX_LN_SCALE", "0")
    monkeypatch.setenv("BITNET_CORRECTION_POLICY", "policy.yml")
    settings = read_settings()
    assert settings.correction_policy == Path("policy.yml")
    assert settings.correction_variables() == ("BITNET_CORRECTION_POLICY",)

"""Which sampling parameters are taken, and what is said about the others."""

import dataclasses
import math
from fractions import Fraction
from typing import Any, get_type_hints

import numpy as np
import pytest

from bitnet_numba.errors import ParameterError
from bitnet_numba.generate.sampling_params import SamplingOptions, SamplingParams


def test_defaults_change_nothing() -> None:
    assert dataclasses.asdict(SamplingParams()) == {
        "max_tokens": 256,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "seed": None,
        "stop": (),
        "logprobs": None,
        "ignore_eos": False,
        "lookup": 0,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_tokens", 1.0),
        ("max_tokens", True),
        ("max_tokens", None),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 10**400),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0),
        ("top_p", 1.001),
        ("top_p", math.nan),
        ("min_p", -0.001),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", 101),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("seed", -1),
        ("seed", 2**64),
        ("logprobs", -1),
        ("logprobs", 21),
        ("ignore_eos", 1),
        ("stop", ""),
        ("stop", ["ok", ""]),
        ("stop", [1]),
        ("stop", None),
        ("logit_bias", [1, 2]),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"7": 1.0}),
        ("logit_bias", {7: 101}),
        ("logit_bias", {7: math.nan}),
    ],
)
def test_refuses_what_is_out_of_range_by_name(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=f"{name}.*expected") as refusal:
        SamplingParams(**{name: value})
    assert "\n" not in str(refusal.value)


def test_message_tells_value_range_and_remedy() -> None:
    with pytest.raises(ParameterError) as refusal:
        SamplingParams(top_p=1.5)
    assert str(refusal.value) == "top_p=1.5: expected a number above 0 to 1; 1 keeps all tokens"
    with pytest.raises(ParameterError) as refusal:
        SamplingParams(temperature=-1)
    assert str(refusal.value) == "temperature=-1: expected a number of at least 0; 0 takes the likeliest token"


def test_long_values_are_not_repeated_in_full() -> None:
    with pytest.raises(ParameterError) as refusal:
        SamplingParams(seed="x" * 10_000)
    assert len(str(refusal.value)) < 200


def test_numbers_of_other_types_become_plain_ones() -> None:
    params = SamplingParams(temperature=np.float32(0.5), top_p=Fraction(1, 2), top_k=np.int64(3), seed=2**64 - 1)
    assert [type(x) for x in (params.temperature, params.top_p, params.top_k, params.seed)] == [float, float, int, int]
    assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.5, 3)


def test_one_stop_string_is_not_taken_apart() -> None:
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def test_later_changes_of_a_bias_do_not_count() -> None:
    bias = {1: 2.0}
    params = SamplingParams(logit_bias=bias)
    bias[1] = 3.0
    assert params.logit_bias == {1: 2.0}


def test_keyword_arguments_have_the_fields_names_and_types() -> None:
    assert get_type_hints(SamplingOptions) == get_type_hints(SamplingParams)

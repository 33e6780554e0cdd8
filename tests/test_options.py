"""Options of loading and sampling: values taken, messages about the others, and one declaration of each."""

import ast
import dataclasses
import inspect
import math
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import numpy as np
import pytest

import bitnet_numba
import bitnet_numba_cli
from bitnet_numba.backends.cpu.kv_cache import KV_DTYPES
from bitnet_numba.declare import Option, options_of
from bitnet_numba.errors import ParameterError
from bitnet_numba.options import (
    MODEL,
    KVType,
    LoadArguments,
    LoadOptions,
    SamplingArguments,
    SamplingParams,
)
from bitnet_numba.text.chat import NAMED_TEMPLATES
from bitnet_numba_cli import chat, info, run, tokenize

TABLES = (LoadOptions, SamplingParams)
ALL_OPTIONS = {name: option for table in TABLES for name, option in options_of(table).items()} | {"model": MODEL}


# ---- sampling --------------------------------------------------------------------------------------------------------


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
        "stop_token_ids": (),
        "min_tokens": 0,
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
        ("lookup", 16),
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


# ---- loading ---------------------------------------------------------------------------------------------------------
def test_default_loading() -> None:
    assert dataclasses.asdict(LoadOptions()) == {
        "threads": None,
        "kv_type": "f16",
        "max_context": None,
        "chat_template": None,
        "head": "exact",
        "cached_prefixes": 4,
    }


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "threads",
            [0, -1, 257, True, 2.0, "2"],
            "expected a whole number from 1 to 256; leave it out for one per core",
        ),
        ("max_context", [0, -1, True, 5.0], "expected a whole number of at least 1; leave it out for the context"),
        ("kv_type", ["f64", "", "F16", 16, None], "expected f16, f32 or int8; "),
        ("head", ["int8", "f16", "", None], "expected exact or full; leave it out for exact"),
        ("cached_prefixes", [-1, 65, True, 2.0, None], "expected a whole number from 0 to 64; leave it out for 4"),
        ("chat_template", [5, b"raw"], "expected a text; "),
    ],
)
def test_refuses_loading_options_by_name_range_and_remedy(name: str, values: list[Any], message: str) -> None:
    for value in values:
        with pytest.raises(ParameterError) as refusal:
            LoadOptions(**{name: value})
        assert str(refusal.value).startswith(f"{name}={value!r}: {message}")


def test_a_path_names_a_template() -> None:
    assert LoadOptions(chat_template=Path("my.jinja")).chat_template == "my.jinja"  # type: ignore[arg-type]


def test_a_context_is_at_most_the_models_own() -> None:
    assert LoadOptions().context_of(64) == 64
    assert LoadOptions(max_context=5).context_of(64) == 5
    with pytest.raises(ParameterError, match=r"^max_context=65: the model holds 1 to 64 positions; ask for fewer$"):
        LoadOptions(max_context=65).context_of(64)


# ---- one declaration -------------------------------------------------------------------------------------------------
def test_keyword_arguments_have_the_fields_names_and_types() -> None:
    assert get_type_hints(SamplingArguments) == get_type_hints(SamplingParams)
    assert get_type_hints(LoadArguments) == get_type_hints(LoadOptions)


def test_ranges_and_choices_are_those_of_who_uses_them() -> None:
    assert tuple(KV_DTYPES) == get_args(KVType)
    assert all(f" {name}, " in ALL_OPTIONS["chat_template"].help for name in NAMED_TEMPLATES)


@pytest.mark.parametrize("command", [run.command, chat.command, info.command, tokenize.command], ids=lambda it: it.name)
def test_the_command_line_shows_the_table(command: click.Command) -> None:
    """Help, choices and metavar are the table's; defaults are left to it."""
    shown = {each.name: each for each in command.params if isinstance(each, click.Option)}
    shared = shown.keys() & ALL_OPTIONS.keys()
    assert shared >= ({"model"} if command.name == "tokenize" else {"model", "threads", "kv_type", "head"})
    for name in shared:
        declared, flag = ALL_OPTIONS[name], shown[name]
        assert (flag.help or "").removesuffix(" Can be given more than once.") == declared.text
        assert flag.metavar == declared.metavar
        assert command.make_context(command.name, [], resilient_parsing=True).params[name] in (None, ())
        assert tuple(getattr(flag.type, "choices", ())) == declared.choices


def test_every_option_with_a_metavar_has_a_flag() -> None:
    flags = {flag for each in run.command.params for flag in each.opts}
    expected = {f"--{name.replace('_', '-')}" for name, option in ALL_OPTIONS.items() if option.metavar}
    assert expected == flags & {f"--{name.replace('_', '-')}" for name in ALL_OPTIONS}


def test_no_help_text_is_declared_a_second_time() -> None:
    sources = [*Path(bitnet_numba.__file__).parent.rglob("*.py"), *Path(bitnet_numba_cli.__file__).parent.glob("*.py")]
    texts = [
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for name, declared in ALL_OPTIONS.items():
        assert sum(declared.help in text for text in texts) == 1, name


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_docstrings_list_the_table(table: type) -> None:
    lines = (inspect.getdoc(table) or "").splitlines()
    prose = " ".join(" ".join(lines).split())
    for name, declared in options_of(table).items():
        assert f"{name} : {declared.form}" in lines
        assert declared.text in prose


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (Option(4, "Number kept ({range}).", high=64, kind=int), "Number kept (0 to 64). Default: 4."),
        (Option(1.0, "P ({range}).", "keeps all", high=1, kind=float), "P (0 to 1). Default: 1, which keeps all."),
        (Option(0.5, "P ({range}).", high=1, above_low=True, kind=float), "P (above 0 to 1). Default: 0.5."),
        (Option(None, "Seed.", "a new one", variable="X_SEED", kind=int), "Seed. Default: X_SEED, else a new one."),
        (Option("a", "Kind.", choices=("a", "b")), "Kind. Default: a."),
        (Option(False, "Go on.", kind=bool), "Go on."),
        (Option((), "Stop here.", kind=tuple), "Stop here."),
    ],
)
def test_help_texts_tell_range_and_default(declared: Option, text: str) -> None:
    assert declared.text == text

"""Click options from the tables of :mod:`bitnet_numba.options`, and the arguments that a command line states."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from bitnet_numba.declare import Option, options_of
from bitnet_numba.options import MODEL, LoadOptions, SamplingParams

_Function = TypeVar("_Function", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def _click_option(name: str, declared: Option) -> Callable[[_Function], _Function]:
    """Return the Click option of a declared one; without a value it is None, or () if it can be given repeatedly."""
    flags = [f"-{declared.short}"] if declared.short else []
    is_repeated = declared.kind in (tuple, dict)
    return click.option(
        *flags,
        f"--{name.replace('_', '-')}",
        type=_click_type(declared),
        multiple=is_repeated,
        metavar=declared.metavar,
        help=f"{declared.text} Can be given more than once." if is_repeated else declared.text,
    )


def _click_type(declared: Option) -> Any:
    if declared.choices:
        return click.Choice(declared.choices)
    return _IdAndNumber() if declared.kind is dict else declared.items if declared.kind is tuple else declared.kind


class _IdAndNumber(click.ParamType[tuple[int, float]]):
    """``ID=X``: a token id and a number."""

    name = "ID=X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        """Return both parts of a text."""
        token_id, _, number = str(value).partition("=")
        try:
            return int(token_id), float(number)
        except ValueError:
            self.fail(f"{value!r} is no token id and number, such as 128001=-100", param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes, with or without a unit: ``1000000``, ``500M``, ``1GB``."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the size."""
        match = re.fullmatch(r"([0-9]{1,15})\s?([kKmMgG]?)[bB]?", str(value))
        if match is None:
            self.fail(f"{value!r} is not a size; write bytes, or a number with kB, MB or GB", param, ctx)
        return int(match[1]) * _UNITS[match[2].lower()]


def _add_table(kind: type, function: _Function) -> _Function:
    """Add the options of a table that have a place on the command line."""
    for name, declared in reversed(options_of(kind).items()):
        function = _click_option(name, declared)(function) if declared.metavar else function
    return function


MODEL_OPTION = _click_option("model", MODEL)
THREADS_OPTION = _click_option("threads", options_of(LoadOptions)["threads"])
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout, and nothing else.")
_GREEDY_OPTION = click.option("--greedy", is_flag=True, help="Take the most likely token every time, as by default.")


def model_by_name(function: _Function) -> _Function:
    """Add MODEL as an argument and as an option; the function gets ``model``, or None."""

    @functools.wraps(function)
    def named(*args: Any, named_model: str | None, **options: Any) -> Any:
        if named_model is not None and options["model"] is not None:
            raise click.UsageError("The model is named twice, as an argument and with --model; give one")
        return function(*args, **{**options, "model": options["model"] if named_model is None else named_model})

    argument = click.argument("named_model", metavar="[MODEL]", required=False)
    return cast("_Function", argument(named))


def model_and_text(
    words: Sequence[str], model: str | None, text_option: str | None, file: Path | None, what: str
) -> tuple[str | None, str | None]:
    """Return the model and the text of a command: of two arguments the first is the model, of one that is the text.

    Where the text is an option or a file, a single argument is the model.
    """
    n_texts = int(text_option is None and file is None)
    if len(words) == n_texts + 1 and _may_be_model(words[0]):
        if model is not None:
            raise click.UsageError("The model is named twice, as an argument and with --model; give one")
        model, words = words[0], words[1:]
    if len(words) > 1:
        raise click.UsageError(f"The {what} must be one argument; put it into quotes")
    if words and text_option is not None:
        raise click.UsageError(f"The {what} is given twice, as an argument and with --prompt; give one")
    if words and words[0].endswith(".gguf") and Path(words[0]).is_file():
        raise click.UsageError(f"{words[0]} is a model, and no {what}: name it with -m, or give the {what} after it")
    return model, words[0] if words else text_option


def _may_be_model(word: str) -> bool:
    """Return whether a word can be a model's name, rather than the first word of a text without quotes."""
    return word == "demo" or "/" in word or word.endswith(".gguf") or Path(word).is_dir()


def loading_options(function: _Function) -> _Function:
    """Add the options that :func:`loading_arguments` reads."""
    return MODEL_OPTION(_add_table(LoadOptions, function))


def sampling_options(function: _Function) -> _Function:
    """Add the options that :func:`sampling_arguments` reads."""
    return _add_table(SamplingParams, _GREEDY_OPTION(function))


def loading_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of :func:`bitnet_numba.load` that the command line states, checked."""
    model = {} if given["model"] is None else {"model": given["model"]}
    return model | _stated(LoadOptions, given)


def sampling_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling arguments that the command line states, checked before any model is loaded."""
    if given["greedy"] and given["temperature"]:
        raise click.UsageError(f"--greedy contradicts --temperature {given['temperature']:g}; give one")
    if given.get("seed") is not None and not given["temperature"]:
        click.echo("note: --seed has no effect on greedy choice; give a --temperature to draw at random", err=True)
    return _stated(SamplingParams, given)


def _stated(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    stated = {name: given[name] for name in options_of(kind) if given.get(name) not in (None, ())}
    stated |= {name: dict(value) for name, value in stated.items() if options_of(kind)[name].kind is dict}
    kind(**stated)  # raises ParameterError if one is out of range
    return stated

"""The options that commands share, and what they become: arguments of ``bitnet_numba.load`` and of generation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])

MODEL_OPTION = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="A .gguf file, a Hugging Face directory (config.json and safetensors), or org/name[@revision][:file] for what"
    " 'pull' has fetched. Default: BITNET_GGUF, or the model that comes with the program, which 'demo' names too.",
)
MODEL_ARGUMENT = click.argument("model", required=False)
THREADS_OPTION = click.option(
    "--threads",
    type=int,
    metavar="N",
    help="Threads that share the work; they never change the result. Default: BITNET_NUM_THREADS, or one a core.",
)
KV_TYPE_OPTION = click.option(
    "--kv-type",
    type=click.Choice(["f16", "f32", "int8"]),
    default="f16",
    show_default=True,
    metavar="f16|f32|int8",
    help="Precision of the keys and values that are kept.",
)
HEAD_OPTION = click.option(
    "--head",
    type=click.Choice(["exact", "f16", "int8"]),
    default="exact",
    show_default=True,
    metavar="exact|f16|int8",
    help="How the output head is read: an int8 copy, and exactly what can matter; all of it, with the same result; or"
    " the copy alone, which is approximate.",
)
MAX_CONTEXT_OPTION = click.option(
    "--max-context",
    type=int,
    metavar="N",
    help="The most tokens of prompt and answer together. Default: what the model was trained for.",
)
TEMPLATE_OPTION = click.option(
    "--chat-template",
    metavar="NAME|FILE",
    help="How chat turns are written: bitnet, llama3, chatml, raw, model (the template in the model), or a template"
    " file. Default: what suits the model.",
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout, and nothing else.")

_LOADING = (MODEL_OPTION, THREADS_OPTION, KV_TYPE_OPTION, HEAD_OPTION, MAX_CONTEXT_OPTION, TEMPLATE_OPTION)
_SAMPLING = (
    click.option("-n", "--max-tokens", type=int, metavar="N", help="The most tokens to generate. Default: 256."),
    click.option(
        "--temperature",
        type=float,
        metavar="T",
        help="0 takes the likeliest token every time, 1 draws as the model learned, more is wilder. Default: 0.",
    ),
    click.option("--greedy", is_flag=True, help="Take the likeliest token every time, which is the default."),
    click.option("--top-k", type=int, metavar="K", help="Draw from the K likeliest tokens. Default: 0, all."),
    click.option("--top-p", type=float, metavar="P", help="Draw from the share P of probability. Default: 1, all."),
    click.option(
        "--min-p",
        type=float,
        metavar="P",
        help="Drop tokens less likely than P times the likeliest. Default: 0, none.",
    ),
    click.option(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="Above 1, make tokens of the prompt and the answer less likely to come again. Default: 1.",
    ),
    click.option(
        "--frequency-penalty",
        type=float,
        metavar="X",
        help="Take X from a token's score for every time the answer has it. Default: 0.",
    ),
    click.option(
        "--presence-penalty",
        type=float,
        metavar="X",
        help="Take X from the score of every token the answer has. Default: 0.",
    ),
    click.option(
        "--seed",
        type=int,
        metavar="N",
        help="The same seed gives the same text. Default: BITNET_SEED, or another one every time.",
    ),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help="End before this text. Can be given more than once.",
    ),
    click.option(
        "--lookup",
        type=int,
        metavar="N",
        help="Guess up to N tokens a step, at most 15, from where the text has been like this before: the same answer,"
        " sooner where texts repeat. Default: 0, none.",
    ),
)

_SAMPLING_NAMES = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "lookup",
)


def loading_options(function: _Function) -> _Function:
    """Add the options that :func:`loading_arguments` reads."""
    return _add(_LOADING, function)


def sampling_options(function: _Function) -> _Function:
    """Add the options that :func:`sampling_arguments` reads."""
    return _add(_SAMPLING, function)


def loading_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the arguments of :func:`bitnet_numba.load` that the command line states."""
    names = ("model", "threads", "kv_type", "head", "max_context", "chat_template")
    return {name: options[name] for name in names if options[name] is not None}


def sampling_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the sampling arguments that the command line states, and check them before any model is loaded.

    Raises
    ------
    click.UsageError
        If ``--greedy`` comes with a temperature above 0.
    ParameterError
        If a value is out of its range.
    """
    from bitnet_numba import SamplingParams  # here, because it imports numpy

    if options["greedy"] and options["temperature"]:
        raise click.UsageError(f"--greedy contradicts --temperature {options['temperature']:g}; give one")
    stated = {name: options[name] for name in _SAMPLING_NAMES if options[name] not in (None, ())}
    SamplingParams(**stated)
    return stated


def _add(options: Sequence[Callable[[_Function], _Function]], function: _Function) -> _Function:
    for option in reversed(options):
        function = option(function)
    return function

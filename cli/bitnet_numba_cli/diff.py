"""``diff``: two models, or a model and the logits of another engine, for the same tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba.errors import ParameterError
from bitnet_numba_cli import _text
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import JSON_OPTION, PATH, THREADS_OPTION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bitnet_numba import LanguageModel

EXAMPLES = """\b
Examples:
  bitnet-numba diff clean-f16.gguf clean-i2_s.gguf
  bitnet-numba run -m model.gguf "Once upon a time" --dump-logits ours.npz
  bitnet-numba diff model.gguf --reference theirs.npz --min-cosine 0.999 --json
"""
PROMPT = "Once upon a time"
MAX_TOKENS = 1024


@click.command("diff", short_help="Compare the logits of two models or engines.", epilog=EXAMPLES)
@click.argument("first", metavar="MODEL")
@click.argument("second", metavar="[MODEL]", required=False)
@click.option(
    "--reference", type=PATH, metavar="F.npz", help="In place of a second model: tokens and logits that it was given."
)
@click.option("-f", "--text", "file", type=PATH, metavar="FILE", help=f"Text to compare on. Default: {PROMPT!r}.")
@click.option(
    "--tokens",
    type=click.IntRange(1, MAX_TOKENS),
    default=64,
    show_default=True,
    metavar="N",
    help="Compare N tokens of the text, which the first model goes on with if it is shorter.",
)
@click.option("--min-cosine", type=click.FloatRange(-1, 1), default=0.99, show_default=True, help="At each position.")
@click.option(
    "--min-exact",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="Share of positions with the same most likely token.",
)
@THREADS_OPTION
@JSON_OPTION
def command(
    first: str,
    second: str | None,
    reference: Path | None,
    file: Path | None,
    tokens: int,
    min_cosine: float,
    min_exact: float,
    as_json: bool,
    threads: int | None,
) -> None:
    """Compare two models, or a model and another engine, by their logits for the same tokens.

    Another engine's logits are an .npz file: tokens, int[T], and logits, float[T, vocab_size], those after each token.
    'run --dump-logits' writes such a file. Exit status: 0, 15 if a threshold is not met.
    """
    from bitnet_numba.evidence.differential.parity import Thresholds, compare_logits, first_difference
    from bitnet_numba.evidence.differential.reference import read_reference

    if (second is None) == (reference is None):
        raise click.UsageError("Give two models, or one model and --reference")
    text = PROMPT if file is None else _text.read_text(None, file, "text")
    loading: dict[str, Any] = {} if threads is None else {"threads": threads}
    text_ids: list[int] = []
    greedy: list[list[int]] = []
    with loaded({**loading, "model": first}) as model:
        if reference is not None:
            ids, theirs = read_reference(reference, model.config.vocab_size)
            ours = _logits(model, ids, str(reference))
        else:
            text_ids = model.tokenize(text)[:tokens]
            ids = _compared_ids(model, text_ids, tokens)
            ours = _logits(model, ids, first)
            greedy.append(_greedy(model, text_ids, tokens))
    if second is not None:
        with loaded({**loading, "model": second}) as model:
            if (
                model.tokenize(text) != ids[: len(model.tokenize(text))][:tokens]
                and model.tokenize(text)[:tokens] != ids
            ):
                raise ParameterError(f"{second}: its tokenizer gives other tokens for the text; compare like models")
            theirs = _logits(model, ids, second)
            greedy.append(_greedy(model, text_ids, tokens))
    thresholds = Thresholds(min_cosine, min_exact)
    parity = compare_logits(ids, ours, theirs)
    facts = parity.to_dict(thresholds)
    if greedy:
        facts["greedy_divergence"] = first_difference(*greedy)
    if as_json:
        _text.write({"a": first, "b": second or str(reference), "token_ids": ids, **facts})
    else:
        _text.write(_report(facts))
    if not parity.passes(thresholds):
        click.get_current_context().exit(15)


def _compared_ids(model: "LanguageModel", ids: list[int], n_tokens: int) -> list[int]:
    """Return a text's tokens, with a greedy continuation if they are fewer than are compared."""
    n_missing = min(n_tokens, model.max_context) - len(ids)
    if n_missing > 0:
        ids = [*ids, *model.generate(ids, max_tokens=n_missing, ignore_eos=True).token_ids]
    return ids


def _greedy(model: "LanguageModel", ids: list[int], n_tokens: int) -> list[int]:
    """Return the most likely continuation of a text's tokens."""
    return model.generate(ids, max_tokens=min(n_tokens, model.max_context - len(ids) + 1), ignore_eos=True).token_ids


def _logits(model: "LanguageModel", ids: list[int], place: str) -> "NDArray[np.float32]":
    if len(ids) > model.max_context:
        raise ParameterError(f"{place}: {len(ids):,} tokens, the context holds {model.max_context:,}; compare fewer")
    return model.logits(ids)


def _report(facts: Mapping[str, Any]) -> str:
    status = facts["parity"]["status"]
    rows = [
        ("positions", f"{facts['positions']:,}"),
        ("cosine", f"{facts['min_cosine']:.6f} at least, {facts['mean_cosine']:.6f} on average"),
        ("largest difference", f"{facts['max_difference']:.4g}"),
        ("KL divergence", f"{facts['mean_kl']:.4g} nats on average, {facts['max_kl']:.4g} at most"),
        ("same likeliest token", f"{facts['exact_match_rate']:.1%}, of the five likeliest {facts['top5_rate']:.1%}"),
        ("they part", _where(facts["first_divergence"], "position", "at no position")),
    ]
    if "greedy_divergence" in facts:
        rows.append(("greedy text parts", _where(facts["greedy_divergence"], "token", "nowhere")))
    if facts["perplexity_a"] is not None:
        rows.append(("perplexity", f"{facts['perplexity_a']:.4f} and {facts['perplexity_b']:.4f}"))
    return f"{status.upper()}\n" + "".join(f"  {name:<21} {value}\n" for name, value in rows)


def _where(index: int | None, what: str, nowhere: str) -> str:
    return nowhere if index is None else f"at {what} {index:,}"

"""``score``: the perplexity of a text."""

from pathlib import Path
from typing import Any

import click

from bitnet_numba_cli import _text
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import JSON_OPTION, PATH, loading_arguments, loading_options, model_by_name
from bitnet_numba_cli._progress import token_progress

EXAMPLES = """\b
Examples:
  bitnet-numba score --file story.txt
  bitnet-numba score -m model.gguf --file wiki.test.raw --window 2048 --stride 512 --json
"""


@click.command("score", short_help="Compute the perplexity of a text.", epilog=EXAMPLES)
@model_by_name
@loading_options
@click.option("-f", "--file", "--text", type=PATH, metavar="FILE", help="The text; without it, standard input is read.")
@click.option("--window", type=int, metavar="N", help="Tokens in a forward pass. Default: the context, up to 2048.")
@click.option("--stride", type=int, metavar="N", help="New tokens in each pass. Default: half a window.")
@JSON_OPTION
def command(file: Path | None, window: int | None, stride: int | None, as_json: bool, **options: Any) -> None:
    """Compute the perplexity of a text: exp of the mean negative log-likelihood of its tokens.

    The text is read in windows, one forward pass each. A token is scored once, after those before it in its window.
    """
    from bitnet_numba.evidence.differential.score import score  # here, because it imports numpy

    loading = loading_arguments(options)
    text = _text.read_text(None, file, "text")
    with loaded(loading) as model, token_progress("scoring") as on_progress:
        result = score(model, model.tokenize(text), window=window, stride=stride, on_progress=on_progress)
    if as_json:
        _text.write(result.to_dict())
    else:
        _text.write(
            f"perplexity {result.perplexity:.4f} of {result.tokens:,} tokens ({result.mean_nll:.6f} nats a token) in "
            f"{result.windows:,} windows of up to {result.window:,} tokens, stride {result.stride:,}\n"
        )

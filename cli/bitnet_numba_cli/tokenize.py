"""``tokenize``: text to token ids, and back."""

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitnet_numba.errors import BitNetError
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import JSON_OPTION, MODEL_OPTION, PATH, model_and_text

if TYPE_CHECKING:
    from bitnet_numba.text.tokenizer import Tokenizer

EXAMPLES = """\b
Examples:
  bitnet-numba tokenize "Once upon a time"
  bitnet-numba tokenize --json < story.txt
  bitnet-numba tokenize "Once upon a time" | bitnet-numba tokenize --decode
"""


@click.command("tokenize", short_help="Turn text into token ids, or ids into text.", epilog=EXAMPLES)
@click.argument("words", metavar="[MODEL] [TEXT]", nargs=-1)
@click.option("-p", "--prompt", "text_option", metavar="TEXT", help="The text, in place of the argument.")
@click.option("-f", "--file", type=PATH, metavar="FILE", help="Read the text or ids from a file.")
@click.option("--decode", is_flag=True, help="Turn ids, separated by spaces or commas, into text.")
@click.option(
    "--special", is_flag=True, help="Parse the names of special tokens in the text; with --decode, write them."
)
@click.option("--no-bos", is_flag=True, help="Leave out the beginning-of-sequence token.")
@MODEL_OPTION
@JSON_OPTION
def command(
    words: tuple[str, ...],
    text_option: str | None,
    file: Path | None,
    decode: bool,
    special: bool,
    no_bos: bool,
    model: str | None,
    as_json: bool,
) -> None:
    """Turn TEXT into token ids, or with --decode ids into text.

    The input is the argument, the text of --file, or standard input if TEXT is '-' or neither is given. One newline at
    the end of a file or of standard input is dropped.

    With --json, both directions print an object with the keys text, token_ids and tokens (as in the vocabulary).
    """
    if decode and no_bos:
        raise click.UsageError("--no-bos is about encoding; leave it out with --decode")
    words = (" ".join(words),) if decode and words else words  # ids may be several arguments
    model, text = model_and_text(words, model, text_option, file, "text")
    given = _text.read_text(text, file, "text")
    token_ids = _parse_ids(given) if decode else []
    tokenizer = _load_tokenizer(model)
    if decode:
        given = tokenizer.decode(token_ids, skip_special=not special)
    else:
        token_ids = tokenizer.encode(given, add_bos=not no_bos, parse_special=special)
    if as_json:
        tokens = [tokenizer.token_text(token_id) for token_id in token_ids]
        _text.write({"text": given, "token_ids": token_ids, "tokens": tokens})
    else:
        _text.write(f"{given if decode else ' '.join(map(str, token_ids))}\n")


def _load_tokenizer(model: str | None) -> "Tokenizer":
    """Read only the tokenizer of a model."""
    from bitnet_numba.model.open import open_source  # here, so that the help text does not pay for it

    with closing(open_source(model)) as source:
        tokenizer = source.tokenizer()
    _ui.say_notes(tokenizer.notes)
    return tokenizer


def _parse_ids(text: str) -> list[int]:
    words = re.split(r"[\s,]+", text.strip().removeprefix("[").removesuffix("]").strip())
    for number, word in enumerate(words, start=1):
        if not re.fullmatch("[0-9]{1,18}", word):
            raise BitNetError(f"id {number}: {word[:40]!r} is not a token id; give whole numbers, separated by spaces")
    return [int(word) for word in words]

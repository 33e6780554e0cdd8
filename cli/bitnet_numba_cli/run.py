"""``run``: generate text after one prompt."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba.files import check_target
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import (
    JSON_OPTION,
    PATH,
    loading_arguments,
    loading_options,
    model_and_text,
    sampling_arguments,
    sampling_options,
)
from bitnet_numba_cli._progress import token_progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Sequence as SequenceOf

    from bitnet_numba import Chunk, GenerationResult, LanguageModel

EXAMPLES = """\b
Examples:
  bitnet-numba run "Once upon a time"
  bitnet-numba run --chat "What is the capital of France?"
  bitnet-numba run -m model.gguf --file prompt.txt --temperature 0.7 --seed 1 > answer.txt
  echo "The capital of France is" | bitnet-numba run --json
"""


@click.command("run", short_help="Continue a prompt, or answer it.", epilog=EXAMPLES)
@click.argument("words", metavar="[MODEL] [PROMPT]", nargs=-1)
@click.option("-p", "--prompt", "prompt_option", metavar="TEXT", help="The prompt, in place of the argument.")
@click.option("-f", "--file", type=PATH, metavar="FILE", help="Read the prompt from a file.")
@click.option("--chat", is_flag=True, help="Send the prompt as a user's turn with the chat template.")
@click.option("--system", metavar="TEXT", help="System message before the prompt; implies --chat.")
@loading_options
@sampling_options
@JSON_OPTION
@click.option(
    "--dump-logits",
    type=PATH,
    metavar="FILE.npz",
    help="Save the token ids of prompt and answer (tokens) and the logits after each (logits).",
)
@click.option(
    "--receipt",
    type=PATH,
    metavar="FILE.json",
    help="Write a receipt of the computation, which 'receipt verify' and 'receipt replay' check.",
)
@click.option("-v", "--verbose", is_flag=True, help="Print timings to stderr, even if it is not a terminal.")
def command(
    words: tuple[str, ...],
    prompt_option: str | None,
    file: Path | None,
    chat: bool,
    system: str | None,
    as_json: bool,
    dump_logits: Path | None,
    receipt: Path | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Continue PROMPT, or answer it with --chat.

    The generated text goes to stdout, without the prompt, with one newline at the end. Notes, progress and timings go
    to stderr.

    The prompt is the last argument, the text of --file, or standard input if PROMPT is '-' or neither is given. One
    newline at the end of a file or of standard input is dropped.
    """
    options["model"], prompt = model_and_text(words, options["model"], prompt_option, file, "prompt")
    loading, sampling = loading_arguments(options), sampling_arguments(options)
    for path in filter(None, (dump_logits, receipt)):
        check_target(path)
    text = _text.read_text(prompt, file, "prompt")
    with loaded(loading) as model, token_progress() as on_progress:
        prompt_ids = _prompt_ids(model, text, system, chat=chat or system is not None)
        corrections = model.corrections
        if receipt is not None:
            sampling["record"] = True
        sampling["on_progress"] = on_progress
        result = model.generate(prompt_ids, **sampling) if as_json else _stream(model.stream(prompt_ids, **sampling))
        if receipt is not None:
            _write_receipt(model, result, receipt)
        if dump_logits is not None:
            # the last token of an answer that fills the context has no position
            _dump_logits(model, [*prompt_ids, *result.token_ids][: model.max_context], dump_logits)
    if as_json:
        _text.write({**result.to_dict(), "corrections": corrections})
    if verbose or _ui.stderr_is_terminal():
        _ui.say(_ui.timings(result))


def _prompt_ids(model: "LanguageModel", text: str, system: str | None, *, chat: bool) -> list[int]:
    if not chat:
        return model.tokenize(text)
    turns = [{"role": "user", "content": text}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return model.chat_ids(turns)


def _stream(chunks: "Iterator[Chunk]") -> "GenerationResult":
    """Print the answer as it is generated, and return its result."""
    result = None
    for chunk in chunks:
        _text.write(chunk.text)
        result = chunk.result
    _text.write("\n")
    if result is None:
        raise RuntimeError("a stream ended without its result")
    return result


def _write_receipt(model: "LanguageModel", result: "GenerationResult", path: Path) -> None:
    from bitnet_numba.evidence.documents import write_document  # here, because runs without a receipt do without
    from bitnet_numba.evidence.facts import identify
    from bitnet_numba.evidence.receipt import make_receipt

    receipt = make_receipt(model, identify(model), result)
    with _text.removal_on_sigterm():
        write_document(path, receipt)


def _dump_logits(model: "LanguageModel", token_ids: "SequenceOf[int]", path: Path) -> None:
    """Save ``tokens`` (int32[T]) and ``logits`` (float32[T, vocab_size])."""
    import numpy as np  # here, so that the help text does not pay for it

    logits = model.logits(token_ids)
    with _text.write_file(path) as file:
        np.savez(file, tokens=np.asarray(token_ids, np.int32), logits=logits)

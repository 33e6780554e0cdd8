"""From the files of a model to one that runs: check them, pack the weights, compile the kernels."""

import functools
import time

from bitnet_numba.backends.cpu.candidates import HEAD_TYPES, HeadType
from bitnet_numba.backends.cpu.kv_cache import KV_DTYPES, KVType
from bitnet_numba.backends.cpu.load import load_backend
from bitnet_numba.backends.cpu.memory import Reserve
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.errors import FormatError, ParameterError
from bitnet_numba.generate.describe import describe
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.language_model import LanguageModel
from bitnet_numba.generate.prefix_cache import max_prefix_pages
from bitnet_numba.model.source import ModelSource
from bitnet_numba.settings import read_settings
from bitnet_numba.text.chat import choose_template, encode_chat
from bitnet_numba.text.tokenizer import Tokenizer

MAX_THREADS = 256
MAX_KEPT = 64  # prefixes


def assemble(
    source: ModelSource,
    reserve: Reserve,
    started: float,
    *,
    threads: int | None,
    kv_type: KVType,
    max_context: int | None,
    chat_template: str | None,
    head: HeadType,
    kept_prefixes: int,
) -> LanguageModel:
    """Make a model ready to generate.

    Parameters
    ----------
    source : ModelSource
    reserve : Reserve
        Memory for its weights.
    started : float
        When loading began, as ``time.perf_counter`` has it.
    threads, kv_type, max_context, chat_template, head, kept_prefixes
        As :func:`bitnet_numba.load` takes them.

    Raises
    ------
    BitNetError
        If the model cannot be read or served, or an argument is out of range.
    """
    n_threads = choose_threads(threads)
    if kv_type not in KV_DTYPES:
        raise ParameterError(f"kv_type '{kv_type}': choose one of {', '.join(KV_DTYPES)}")
    if head not in HEAD_TYPES:
        raise ParameterError(f"head '{head}': choose one of {', '.join(HEAD_TYPES)}")
    if not _is_whole(kept_prefixes, 0, MAX_KEPT):
        raise ParameterError(f"kept_prefixes is {kept_prefixes}, expected a whole number from 0 to {MAX_KEPT}")
    context = choose_context(max_context, source)
    tokenizer = source.tokenizer()
    _check_vocabulary(source, tokenizer)
    template = choose_template(
        chat_template, family_template=source.config.family.chat_template, model_template=source.chat_template
    )
    backend = load_backend(
        source, threads=n_threads, kv_type=kv_type, max_context=context, head=head, allocate=reserve.allocate
    )
    prefix_pages = max_prefix_pages(kept_prefixes, context)
    engine = Engine(backend, cached_prefixes=kept_prefixes, load_ms=1000 * (time.perf_counter() - started))
    return LanguageModel(
        engine,
        tokenizer,
        functools.partial(encode_chat, tokenizer, template),
        info=describe(source, backend, None if template is None else template.name, prefix_pages),
        notes=(*tokenizer.notes, *source.notes, *_correction_notes(source)),
    )


def _correction_notes(source: ModelSource) -> tuple[str, ...]:
    if not source.corrections:
        return ()
    policy = source.corrections[0].policy_fingerprint
    return (f"{len(source.corrections)} corrections were made to the weights, by {policy}",)


def choose_threads(threads: int | None) -> int:
    """Return how many threads to use: as asked, else ``BITNET_NUM_THREADS``, else a thread for each core.

    Raises
    ------
    ParameterError
        If the number is out of range.
    """
    chosen = threads if threads is not None else read_settings().threads
    if chosen is None:
        return min(cpu.usable_cores(), MAX_THREADS)
    if not _is_whole(chosen, 1, MAX_THREADS):
        raise ParameterError(f"threads is {chosen}, expected a whole number from 1 to {MAX_THREADS}")
    return chosen


def choose_context(max_context: int | None, source: ModelSource) -> int:
    """Return the longest sequence: what is asked, at most what the model was trained for.

    Raises
    ------
    ParameterError
        If more is asked.
    """
    trained = source.config.max_seq_len
    if max_context is None:
        return trained
    if not _is_whole(max_context, 1, trained):
        raise ParameterError(f"max_context is {max_context}, the model holds 1 to {trained:,} positions")
    return max_context


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_vocabulary(source: ModelSource, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that knows ids which the embedding does not have."""
    rows = source.config.vocab_size
    ids = {*tokenizer.eos_ids, *([] if tokenizer.bos_id is None else [tokenizer.bos_id])}
    if tokenizer.vocab_size > rows or any(token >= rows for token in ids):
        raise FormatError(
            f"{source.path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the embedding {rows:,} rows; "
            "they are not of one model"
        )

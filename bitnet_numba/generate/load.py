"""Load a model: check its files and its tokenizer, choose the chat template, and let a backend take the weights."""

import functools
import time
from typing import Any, Literal

from bitnet_numba.backends.protocol import Backend
from bitnet_numba.errors import FormatError
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.language_model import LanguageModel
from bitnet_numba.generate.prefix_cache import max_prefix_pages
from bitnet_numba.model.describe import model_facts
from bitnet_numba.model.source import ModelSource
from bitnet_numba.options import LoadOptions
from bitnet_numba.text.chat import choose_template, encode_chat, template_notes
from bitnet_numba.text.tokenizer import Tokenizer

BackendName = Literal["cpu", "numpy"]


def load_model(
    source: ModelSource,
    options: LoadOptions | None = None,
    *,
    backend: BackendName = "cpu",
    started: float | None = None,
) -> LanguageModel:
    """Load a model from its opened files, with or without corrections; BitNetError if it cannot be read or served.

    The NumPy backend is the slow oracle of the tests. ``started`` is when loading began, in seconds of
    ``time.perf_counter``; by default now.
    """
    started = time.perf_counter() if started is None else started
    options = options or LoadOptions()
    tokenizer = source.tokenizer()
    _check_vocabulary(source, tokenizer)
    template = choose_template(
        options.chat_template, family_template=source.config.family.chat_template, model_template=source.chat_template
    )
    loaded = _load_backend(backend, source, options)
    engine = Engine(loaded, cached_prefixes=options.cached_prefixes, load_ms=1000 * (time.perf_counter() - started))
    prefix_pages = max_prefix_pages(options.cached_prefixes, loaded.max_context)
    return LanguageModel(
        engine,
        tokenizer,
        functools.partial(encode_chat, tokenizer, template),
        info={
            "model": model_facts(source, None if template is None else template.name),
            "memory": loaded.memory(prefix_pages),
        },
        notes=(*tokenizer.notes, *template_notes(tokenizer, template), *source.notes, *_correction_notes(source)),
    )


def _load_backend(name: BackendName, source: ModelSource, options: LoadOptions) -> Backend[Any]:
    """Load a model into a backend, which is imported only now: the CPU backend imports Numba."""
    if name == "numpy":
        from bitnet_numba.backends.numpy.load import load_backend as load_numpy_backend

        return load_numpy_backend(source, options)
    from bitnet_numba.backends.cpu.load import load_backend as load_cpu_backend

    return load_cpu_backend(source, options)


def _check_vocabulary(source: ModelSource, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with ids that the embedding does not have."""
    rows = source.config.vocab_size
    ids = {*tokenizer.eos_ids, *([] if tokenizer.bos_id is None else [tokenizer.bos_id])}
    if tokenizer.vocab_size > rows or any(token >= rows for token in ids):
        raise FormatError(
            f"{source.path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the embedding {rows:,} rows; "
            "they are not of one model"
        )


def _correction_notes(source: ModelSource) -> tuple[str, ...]:
    if not source.corrections:
        return ()
    policy = source.corrections[0].policy_fingerprint
    return (f"{len(source.corrections)} corrections were made to the weights, by {policy}",)

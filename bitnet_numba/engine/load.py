"""From a name to a model that runs: find the files, check them, pack the weights, compile the kernels."""

import functools
import time
from pathlib import Path

import numpy as np

from bitnet_numba.demo import demo_model_path
from bitnet_numba.engine.api import LanguageModel
from bitnet_numba.engine.cache import KV_DTYPES, KVType
from bitnet_numba.engine.chat import choose_template, encode_chat
from bitnet_numba.engine.describe import describe
from bitnet_numba.engine.gguf_source import GGUFSource
from bitnet_numba.engine.head import HEAD_TYPES, HeadType
from bitnet_numba.engine.hf_source import HuggingFaceSource
from bitnet_numba.engine.layout import Layout
from bitnet_numba.engine.model import Transformer
from bitnet_numba.engine.source import ModelSource
from bitnet_numba.engine.tokenizer import Tokenizer
from bitnet_numba.engine.weights import load_weights
from bitnet_numba.errors import BitNetError, FormatError, ParameterError
from bitnet_numba.kernels.softmax import softmax
from bitnet_numba.kernels.ternary.tile_check import check_tiles
from bitnet_numba.settings import read_settings
from bitnet_numba.simd import cpu

MAX_THREADS = 256
MAX_KEPT = 64  # prefixes


def load_model(
    model: str | Path | None = None,
    *,
    threads: int | None = None,
    kv_type: KVType = "f16",
    max_context: int | None = None,
    chat_template: str | None = None,
    head: HeadType = "exact",
    kept_prefixes: int = 4,
) -> LanguageModel:
    """Load a model; :func:`bitnet_numba.load` says what the arguments mean.

    Raises
    ------
    BitNetError
        If the model cannot be read or served, or an argument is out of range.
    """
    started = time.perf_counter()
    n_threads = choose_threads(threads)
    if kv_type not in KV_DTYPES:
        raise ParameterError(f"kv_type '{kv_type}': choose one of {', '.join(KV_DTYPES)}")
    if head not in HEAD_TYPES:
        raise ParameterError(f"head '{head}': choose one of {', '.join(HEAD_TYPES)}")
    if isinstance(kept_prefixes, bool) or not isinstance(kept_prefixes, int) or not 0 <= kept_prefixes <= MAX_KEPT:
        raise ParameterError(f"kept_prefixes is {kept_prefixes}, expected a whole number from 0 to {MAX_KEPT}")
    source = open_source(model)
    context = choose_context(max_context, source)
    tokenizer = source.tokenizer()
    _check_vocabulary(source, tokenizer)
    template = choose_template(
        chat_template, architecture=source.config.architecture, model_template=source.chat_template
    )
    layout = Layout.of(source.config)
    weights = load_weights(source, layout, context, is_screened=head != "f16", threads=n_threads)
    transformer = Transformer(layout, weights, threads=n_threads, kv_type=kv_type, max_context=context, head=head)
    _compile(transformer)
    return LanguageModel(
        transformer,
        tokenizer,
        functools.partial(encode_chat, tokenizer, template),
        info=describe(source, transformer, None if template is None else template.name, kept_prefixes),
        load_ms=1000 * (time.perf_counter() - started),
        max_context=context,
        kept_prefixes=kept_prefixes,
        notes=tokenizer.notes,
    )


def open_source(model: str | Path | None) -> ModelSource:
    """Open a model by name, without loading its weights.

    Parameters
    ----------
    model : str, Path or None
        A GGUF file, a Hugging Face directory, ``demo``, or None: what ``BITNET_GGUF`` names, else the embedded model.

    Raises
    ------
    BitNetError
        If there is no such model, or it cannot be read.
    """
    name = model if model is not None else read_settings().model
    if name is None or str(name) == "demo":
        return GGUFSource(demo_model_path())
    path = _expanded(Path(name))
    if path.is_dir():
        return HuggingFaceSource(path)
    if not path.exists():
        raise BitNetError(
            f"{path}: no such model; name a .gguf file or a directory with config.json, or leave it out for the demo"
        )
    return GGUFSource(path)


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # "~somebody" whom the system does not know
        return path


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
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 1 <= chosen <= MAX_THREADS:
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
    if isinstance(max_context, bool) or not isinstance(max_context, int) or not 1 <= max_context <= trained:
        raise ParameterError(f"max_context is {max_context}, the model holds 1 to {trained:,} positions")
    return max_context


def _check_vocabulary(source: ModelSource, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that knows ids which the embedding does not have."""
    rows = source.config.vocab_size
    ids = {*tokenizer.eos_ids, *([] if tokenizer.bos_id is None else [tokenizer.bos_id])}
    if tokenizer.vocab_size > rows or any(token >= rows for token in ids):
        raise FormatError(
            f"{source.path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the embedding {rows:,} rows; "
            "they are not of one model"
        )


def _compile(transformer: Transformer) -> None:
    """Run every kernel once, so that the first answer does not wait for the compiler; check tiles first."""
    if cpu.has_tiles():
        check_tiles()
    transformer.forward(np.zeros(1, np.int32), transformer.new_cache(1))
    softmax(np.zeros(1, np.float32), np.zeros(1, np.float32))

"""A model that runs: weights, scratch memory, and the thread pool that takes tokens through them."""

import threading
import weakref
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.batch import MAX_CHUNK, PREFILL_CHUNK, TokenChunk, place_tokens
from bitnet_numba.backends.cpu.candidates import (
    HeadType,
    Logits,
    NeededLogits,
    Rows,
    Screening,
    request_of,
    screened_rows,
)
from bitnet_numba.backends.cpu.forward.arrays import (
    APPROXIMATE_HEAD,
    FULL_HEAD,
    SCREENED_HEAD,
    SCREENED_TOKENS,
    Shape,
    StepInput,
    Weights,
)
from bitnet_numba.backends.cpu.forward.step import forward
from bitnet_numba.backends.cpu.kernels.head.int8_filter import HeadRequest
from bitnet_numba.backends.cpu.kernels.jit import HEAD_BF16, HEAD_F16, HEAD_F32, HEAD_INT8
from bitnet_numba.backends.cpu.kv_cache import KV_DTYPES, KVCache, KVType, addresses_of
from bitnet_numba.backends.cpu.padded_sizes import Layout
from bitnet_numba.backends.cpu.run_state import allocate_state, n_bytes
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.threads.persistent_workers import PersistentWorkers
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadPool
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.model.config import ModelConfig

_HEAD_KERNELS = {
    np.dtype(np.uint16): HEAD_F16,
    np.dtype(np.int16): HEAD_BF16,
    np.dtype(np.float32): HEAD_F32,
    np.dtype(np.int8): HEAD_INT8,
}


class Transformer:
    """The forward pass of one model.

    Steps of several Python threads, each with a cache of its own, take turns.

    Parameters
    ----------
    layout : Layout
    weights : Weights
    threads : int
        How many share each step.
    kv_type : {"f16", "f32", "int8"}
        The number format of caches.
    max_context : int
        The longest sequence.
    head : {"exact", "f16", "int8"}
        How logits of which not all are asked for are computed; without an int8 copy of the head, all are computed
        exactly.

    Attributes
    ----------
    config : ModelConfig
    threads : int
    isa : str
        The instruction set of the kernels.
    """

    def __init__(
        self,
        layout: Layout,
        weights: Weights,
        *,
        threads: int,
        kv_type: KVType,
        max_context: int,
        head: HeadType = "exact",
    ) -> None:
        self.config: ModelConfig = layout.config
        self.threads = threads
        self.isa = cpu.isa()
        self.kv_type = kv_type
        self.head = head
        self.max_context = max_context
        self.layout = layout
        self.weights = weights
        self._shape = _shape(layout, weights)
        self._state = allocate_state(layout, threads, MAX_CHUNK, max_context)
        self._pool = ThreadPool(threads)
        self._workers = PersistentWorkers(self._pool, forward, weights, np.empty(0, KV_DTYPES[kv_type]), self._state)
        self._turn = threading.Lock()  # what a step leaves in the state is read before the next one
        self._end = weakref.finalize(self, self._workers.close)
        self._end.atexit = False  # a process that ends does not wait for a step

    def new_cache(self, n_positions: int) -> KVCache:
        """Return an empty cache for a sequence of up to ``n_positions``.

        Raises
        ------
        ResourceError
            If the context, or the memory, is too small for it.
        """
        if n_positions > self.max_context:
            raise ResourceError(
                f"{n_positions:,} positions asked for, the context holds {self.max_context:,}: "
                "shorten the prompt or raise max_context"
            )
        return KVCache(self.config.n_layers, self.config.n_kv_heads, self.layout.head_dim, n_positions, self.kv_type)

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        cache: KVCache,
        logits: Literal["last", "all", "none"] = "last",
        chunk_size: int = PREFILL_CHUNK,
    ) -> Logits:
        """Append tokens to a sequence, and return logits, all of them exact.

        The chunk size changes speed, never a bit of the result.

        Parameters
        ----------
        tokens : int32[n_tokens]
        cache : KVCache
            Of this model; holds the sequence so far.
        logits : {"last", "all", "none"}
            Of which tokens.
        chunk_size : int
            Tokens a step, 1 to 512.

        Returns
        -------
        float32[1, n_tokens or 0, vocab_size]
            A fresh array.

        Raises
        ------
        ParameterError
            If there are no tokens, one of them is not in the vocabulary, the chunk size is out of range, or the cache
            is another model's.
        ResourceError
            If the cache is too small for them.
        """
        if not 1 <= chunk_size <= MAX_CHUNK:
            raise ParameterError(f"chunk_size is {chunk_size}, expected 1 to {MAX_CHUNK}")
        tokens = self._checked(tokens, cache)
        n_rows = {"last": 1, "all": tokens.size, "none": 0}[logits]
        out = np.empty((n_rows, self.config.vocab_size), np.float32)
        for start in range(0, tokens.size, chunk_size):
            chunk = tokens[start : start + chunk_size]
            rows = slice(max(0, start - tokens.size + n_rows), max(0, start + chunk.size - tokens.size + n_rows))
            self._step([TokenChunk(chunk, cache, rows.stop - rows.start)], out[rows])
        return out

    def forward_batch(self, pieces: Sequence[TokenChunk[KVCache]]) -> tuple[Rows, list[Screening]]:
        """Append tokens to several sequences in one step, and return logits.

        What else is in the batch changes no bit of a sequence's logits. Where some are ``needed``, with
        ``head="exact"`` others may be left out, and with ``"int8"`` all are rough. Of steps with more than 16 logits,
        all are exact.

        Parameters
        ----------
        pieces : sequence of TokenChunk
            Of different caches; together at most 512 tokens.

        Returns
        -------
        rows : float32[sum of n_logits, vocab_size] or list of float32[n]
            Logits, in the order of the pieces and their tokens; of each token all, or those that are known.
        screenings : list of Screening
            Which ones these are, and what is known of the others, for each row.

        Raises
        ------
        ParameterError
            If a piece is out of range, or there are too many tokens.
        ResourceError
            If a cache is too small.
        """
        checked = [piece._replace(tokens=self._checked(piece.tokens, piece.cache)) for piece in pieces]
        n_tokens = sum(piece.tokens.size for piece in checked)
        if not 1 <= n_tokens <= MAX_CHUNK:
            raise ParameterError(f"batch: {n_tokens} tokens in one step, expected 1 to {MAX_CHUNK}")
        if len({id(piece.cache) for piece in checked}) < len(checked):
            raise ParameterError("batch: two pieces of one cache; give its tokens in one piece")
        for piece in checked:
            if not 0 <= piece.n_logits <= piece.tokens.size:
                raise ParameterError(f"batch: {piece.n_logits} logits of {piece.tokens.size} tokens asked for")
        return self._apart(checked) if self._is_mixed(checked) else self._step(checked)

    def compile(self) -> None:
        """Compile the step, or load it as it was kept, by one that has no layers."""
        shape, self._shape = self._shape, self._shape._replace(n_layers=0)
        try:
            self.forward(np.zeros(1, np.int32), self.new_cache(1), "none")
        finally:
            self._shape = shape

    def kernel_counts(self) -> npt.NDArray[np.int64]:
        """Return how often each of ``kernels.jit.KERNELS`` has run so far, as they count themselves."""
        return self._state.counts.copy()

    def close(self) -> None:
        """End the thread pool's threads; the model cannot run again."""
        self._end()
        self._pool.close()

    @property
    def state_bytes(self) -> int:
        """Bytes of scratch memory."""
        return n_bytes(self._state)

    def _is_mixed(self, pieces: Sequence[TokenChunk[KVCache]]) -> bool:
        """Whether some logits are to be rough and others exact."""
        is_exact = {piece.needed is None for piece in pieces if piece.n_logits}
        return self.head == "int8" and self.weights.head_screen.size > 0 and len(is_exact) == 2

    def _apart(self, pieces: Sequence[TokenChunk[KVCache]]) -> tuple[Rows, list[Screening]]:
        """Take rough and exact logits in a step each: which ones a sequence gets must not depend on its company."""
        owners = np.repeat(np.arange(len(pieces)), [piece.n_logits for piece in pieces])
        logits = np.empty((owners.size, self.config.vocab_size), np.float32)
        is_exact = np.array([piece.needed is None for piece in pieces])
        lengths = [piece.cache.length for piece in pieces]
        try:
            for together in (is_exact, ~is_exact):
                some, _ = self._step([piece for piece, is_one in zip(pieces, together, strict=True) if is_one])
                logits[together[owners]] = some
        except BaseException:  # a batch is read as a whole or not at all
            for piece, length in zip(pieces, lengths, strict=True):
                piece.cache.length = length
            raise
        return logits, [Screening()] * len(logits)  # rough or exact, all are there

    def _step(self, pieces: Sequence[TokenChunk[KVCache]], out: Logits | None = None) -> tuple[Rows, list[Screening]]:
        """Run a step whose logits go to ``out``, or to memory of their own."""
        way, request = self._head_way([piece.needed for piece in pieces for _ in range(piece.n_logits)])
        n_rows = 0 if way == SCREENED_HEAD else sum(piece.n_logits for piece in pieces)
        logits = np.empty((n_rows, self.config.vocab_size), np.float32) if out is None else out
        inputs = StepInput(
            shape=self._shape,
            pages=addresses_of([piece.cache for piece in pieces]),
            head_way=way,
            request=request,
            logits=logits,
            **place_tokens(pieces)._asdict(),
        )
        with self._turn:
            self._workers.call(inputs, in_use=[piece.cache.pages for piece in pieces])
            screened = screened_rows(self._state.screen, request.coldness) if way == SCREENED_HEAD else None
        for piece in pieces:
            piece.cache.length += piece.tokens.size
        return screened or (logits, [Screening()] * n_rows)

    def _head_way(self, needed: Sequence[NeededLogits | None]) -> tuple[int, HeadRequest]:
        """Return how the logits of some tokens are computed, and what of them is needed."""
        rows = [logits for logits in needed if logits is not None]
        request = request_of(rows, self.config.vocab_size)
        if self.weights.head_screen.size == 0 or not 0 < len(rows) == len(needed):
            return FULL_HEAD, request
        if self.head == "int8":
            return APPROXIMATE_HEAD, request
        few = self.head == "exact" and len(rows) <= SCREENED_TOKENS
        screened = few and all(logits.is_partial for logits in rows)
        return SCREENED_HEAD if screened else FULL_HEAD, request

    def _checked(self, tokens: npt.NDArray[np.int32], cache: KVCache) -> npt.NDArray[np.int32]:
        """Return the tokens, contiguous and known; this is where kernels' memory safety begins."""
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or tokens.size == 0:
            raise ParameterError(f"tokens: expected at least one, in one dimension, got {tokens.shape}")
        # before they are cast, or 2**32 would pass for 0
        if tokens.dtype.kind not in "iu" or not 0 <= tokens.min() <= tokens.max() < self.config.vocab_size:
            raise ParameterError(f"tokens: expected whole numbers from 0 to {self.config.vocab_size - 1}")
        if cache.form != (self.config.n_layers, self.config.n_kv_heads, self.layout.head_dim, self.kv_type):
            raise ParameterError(f"cache: made for a model of other sizes, {cache.form}; take one from new_cache")
        if cache.length + tokens.size > min(cache.capacity, self.max_context):
            raise ResourceError(
                f"{cache.length + tokens.size:,} positions needed, the cache holds {cache.capacity:,}: make it larger"
            )
        return np.array(tokens, np.int32)  # its own, writable: for a read-only one Numba would compile anew


def _shape(layout: Layout, weights: Weights) -> Shape:
    config = layout.config
    return Shape(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=layout.head_dim,
        hidden_size=np.float32(config.hidden_size),
        attended_size=np.float32(config.n_heads * config.head_dim),
        ffn_size=np.float32(config.intermediate_size),
        rms_norm_eps=np.float32(config.rms_norm_eps),
        query_scale=np.float32(1 / np.sqrt(config.head_dim)),
        relu2=config.activation == "relu2",
        sub_norms=config.sub_norms,
        head_kernel=_HEAD_KERNELS[weights.head.dtype],
    )

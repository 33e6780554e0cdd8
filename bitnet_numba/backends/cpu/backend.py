"""The CPU backend: a loaded model whose steps run as one jitted call on a thread pool.

It is the counterpart of a model runner: it checks the token chunks of a step, hands their arrays to the jitted forward
pass and returns logits, or the candidates that the int8 filter of the head left.
"""

import itertools
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from bitnet_numba.after_fork import register_for_forks
from bitnet_numba.backends.chunk_checks import check_hidden_states, checked_chunks
from bitnet_numba.backends.cpu.array_types import Floats
from bitnet_numba.backends.cpu.batch import batch_indices
from bitnet_numba.backends.cpu.candidates import candidate_queries, read_candidates
from bitnet_numba.backends.cpu.forward.arrays import (
    CANDIDATE_HEAD,
    FULL_HEAD,
    MAX_CANDIDATE_TOKENS,
    Shape,
    StepInput,
    Weights,
)
from bitnet_numba.backends.cpu.forward.faults import check_faults
from bitnet_numba.backends.cpu.forward.step import forward
from bitnet_numba.backends.cpu.kernels.attention import POSITIONS_PER_BLOCK, head_block_bytes
from bitnet_numba.backends.cpu.kernels.head.int8_filter import CandidateQueries
from bitnet_numba.backends.cpu.kernels.registry import Kernel
from bitnet_numba.backends.cpu.kv_cache import KV_DTYPES, KVCache, page_table
from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes, round_up
from bitnet_numba.backends.cpu.run_state import allocate_state, n_bytes
from bitnet_numba.backends.cpu.sampling import CPUSampling
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.threads.persistent_workers import PersistentWorkers
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadPool
from bitnet_numba.backends.cpu.weights import check_weights
from bitnet_numba.backends.protocol import MAX_STEP_TOKENS, CandidateQuery, Candidates, Counts, Logits, TokenChunk
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.model.config import ModelConfig
from bitnet_numba.options import HeadMode, KVType

_HEAD_KERNELS = {
    np.dtype(np.uint16): Kernel.HEAD_F16,
    np.dtype(np.int16): Kernel.HEAD_BF16,
    np.dtype(np.float32): Kernel.HEAD_F32,
    np.dtype(np.int8): Kernel.HEAD_INT8,
}


class CPUBackend(CPUSampling):
    """A model on the CPU; fulfils :class:`bitnet_numba.backends.protocol.Backend`.

    Steps of several Python threads run one after the other, each shared by ``threads`` threads. Without an int8 copy of
    the head in the weights, all logits are always computed. ``fill_rope`` is called before a step, with the positions
    whose rows of the RoPE table it needs.
    """

    def __init__(
        self,
        sizes: PaddedSizes,
        weights: Weights,
        *,
        threads: int,
        kv_type: KVType,
        max_context: int,
        head: HeadMode = "exact",
        threads_reason: str = "as asked",
        fill_rope: Callable[[int], None] | None = None,
    ) -> None:
        check_weights(weights, sizes, max_context)
        self.config: ModelConfig = sizes.config
        self.max_context = max_context
        self.threads, self.threads_reason = threads, threads_reason
        self.isa = cpu.isa()
        self.head: HeadMode = head
        self.kv_type = kv_type
        self.sizes = sizes
        self.weights = weights
        self._fill_rope = fill_rope  # None: the table of the weights has all its rows
        self._shape = _shape(sizes, weights)
        self._state = allocate_state(sizes, threads, MAX_STEP_TOKENS, max_context)
        self._pool = ThreadPool(threads)
        self._workers = PersistentWorkers(self._pool, forward, weights, np.empty(0, KV_DTYPES[kv_type]), self._state)
        self._lock = threading.Lock()  # a step's candidates are read before the next step overwrites them
        self._dismiss = weakref.finalize(self, _dismiss, self._workers, self._pool)
        self._dismiss.atexit = False  # the process may end while a step runs
        register_for_forks(self)

    def after_fork(self) -> None:
        """Make the lock new: another thread may have held it."""
        self._lock = threading.Lock()

    def new_cache(self, capacity: int) -> KVCache:
        """Allocate a KV cache of ``capacity`` positions; ResourceError where the context or memory is too small."""
        if capacity > self.max_context:
            raise ResourceError(
                f"{capacity:,} positions asked for, the context holds {self.max_context:,}: "
                "shorten the prompt or raise max_context"
            )
        return KVCache(self.config.n_layers, self.config.n_kv_heads, self.sizes.head_dim, capacity, self.kv_type)

    def forward(self, chunks: Sequence[TokenChunk[KVCache]]) -> list[list[Candidates]]:
        """Append each chunk to its cache and return its logits, one :class:`Candidates` a position.

        Candidates come from steps of at most 16 logits that all have a partial query; other steps return all logits.
        ParameterError if a chunk is out of range or from another model, two share a cache, or there are too many
        tokens; ResourceError if a cache is too small; NonFiniteError if a number becomes infinite or NaN.
        """
        chunks = self._checked(chunks)
        queries = [chunk.query for chunk in chunks for _ in range(chunk.n_logits)]
        partial = [query for query in queries if query is not None and query.is_partial]
        is_filtered = (
            self.head == "exact"
            and self.weights.head_int8.size > 0
            and 0 < len(partial) == len(queries) <= MAX_CANDIDATE_TOKENS
        )
        rows = self._filtered(chunks, partial) if is_filtered else self._full(chunks, len(queries))
        check_hidden_states(rows)
        for chunk in chunks:
            chunk.cache.length += chunk.tokens.size
        remaining = iter(rows)
        return [list(itertools.islice(remaining, chunk.n_logits)) for chunk in chunks]

    def counts(self) -> Counts:
        """Return how often each of ``kernel_names`` has run in steps so far, int64[n_kernels]."""
        return self._state.counts.copy()

    def memory(self, prefix_pages: int) -> dict[str, int]:
        """Return bytes by role: a tied head has none; the KV cache is one that fills the context."""
        weights, config = self.weights, self.config
        ternary = weights.qkv.nbytes + weights.attn_output.nbytes + weights.gate_up.nbytes + weights.down.nbytes
        embedding = weights.embedding.nbytes + weights.embedding_scales.nbytes
        is_tied = weights.head is weights.embedding
        head = 0 if is_tied else weights.head.nbytes + weights.head_scales.nbytes
        copied = _copied(config, weights.embedding, weights.embedding_scales)
        copied += 0 if is_tied else _copied(config, weights.head, weights.head_scales)
        every = sum({id(array): array.nbytes for array in weights}.values())
        block_bytes = head_block_bytes(self.sizes.head_dim, KV_DTYPES[self.kv_type])
        per_position = config.n_layers * config.n_kv_heads * block_bytes // POSITIONS_PER_BLOCK
        prefixes = per_position * POSITIONS_PER_BLOCK * prefix_pages
        full_cache = per_position * round_up(self.max_context, POSITIONS_PER_BLOCK)
        scratch = n_bytes(self._state)
        return {
            "ternary_weights": ternary,
            "embedding": embedding,
            "head": head,
            "embedding_and_head_copied": copied,
            "head_int8_copy": weights.head_int8.nbytes,
            "norms_scales_and_rope": every - ternary - embedding - head - weights.head_int8.nbytes,
            "scratch": scratch,
            "kv_cache_per_position": per_position,
            "kv_cache_of_full_context": full_cache,
            "cached_prefixes_at_most": prefixes,
            "total": every + scratch + full_cache + prefixes,
        }

    def compile(self) -> None:
        """Compile the kernels, or load them from the compile cache, by a step without layers."""
        shape, self._shape = self._shape, self._shape._replace(n_layers=0)
        try:
            self.forward([TokenChunk(np.zeros(1, np.int32), self.new_cache(1), 0)])
        finally:
            self._shape = shape
        self.compile_sampling()

    def close(self) -> None:
        """End the threads, and free weights and scratch memory; no step can run after."""
        with self._lock:
            self._workers.close()
            self._pool.close()
            self._dismiss.detach()
            self._workers.release()
            self._fill_rope = None
            del self.weights, self._state

    # ---- one step --------------------------------------------------------------------------------------------------
    def _filtered(self, chunks: Sequence[TokenChunk[KVCache]], queries: Sequence[CandidateQuery]) -> list[Candidates]:
        """Run a step that returns candidates."""
        logits = np.empty((0, self.config.vocab_size), np.float32)
        with self._lock:
            self._run(chunks, CANDIDATE_HEAD, candidate_queries(queries, self.config.vocab_size), logits)
            return read_candidates(self._state.head_filter, queries, self._hidden_states(len(queries)))

    def _full(self, chunks: Sequence[TokenChunk[KVCache]], n_logits: int) -> list[Candidates]:
        """Run a step that returns all logits."""
        logits = np.empty((n_logits, self.config.vocab_size), np.float32)
        with self._lock:
            self._run(chunks, FULL_HEAD, candidate_queries([], self.config.vocab_size), logits)
            hidden = self._hidden_states(n_logits)
        return [Candidates(row, hidden=state) for row, state in zip(logits, hidden, strict=True)]

    def _hidden_states(self, n_logits: int) -> Floats:
        """Copy what the head of the last step read, float32[n_logits, hidden_size]; a single one is thread 0's."""
        return self._state.normed[:n_logits, : self.config.hidden_size].copy()

    def _run(
        self, chunks: Sequence[TokenChunk[KVCache]], head_mode: int, queries: CandidateQueries, logits: Logits
    ) -> None:
        if self._fill_rope is not None:
            self._fill_rope(max(chunk.cache.length + chunk.tokens.size for chunk in chunks))
        inputs = StepInput(
            shape=self._shape,
            pages=page_table([chunk.cache for chunk in chunks]),
            head_mode=head_mode,
            queries=queries,
            logits=logits,
            **batch_indices(chunks)._asdict(),
        )
        self._state.faults[:] = 0
        self._workers.call(inputs, in_use=[chunk.cache.pages for chunk in chunks])
        check_faults(self._state.faults, self.kv_type)

    # ---- the border that the kernels' memory safety rests on -------------------------------------------------------
    def _checked(self, chunks: Sequence[TokenChunk[KVCache]]) -> list[TokenChunk[KVCache]]:
        """Return the chunks with their tokens as int32 arrays of its own, which Numba sees as one type."""
        checked = checked_chunks(chunks, self.config.vocab_size, self.max_context)
        form = self.config.n_layers, self.config.n_kv_heads, self.sizes.head_dim, self.kv_type
        for other in {chunk.cache.form for chunk in checked} - {form}:
            raise ParameterError(f"cache: made for a model of other sizes, {other}; take one from new_cache")
        return checked


def _dismiss(workers: PersistentWorkers, pool: ThreadPool) -> None:
    """Let the threads of a model that was dropped end; never waits."""
    workers.close()
    pool.dismiss()


def _shape(sizes: PaddedSizes, weights: Weights) -> Shape:
    config = sizes.config
    return Shape(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=sizes.head_dim,
        hidden_size=np.float32(config.hidden_size),
        attn_size=np.float32(config.n_heads * config.head_dim),
        ffn_size=np.float32(config.intermediate_size),
        rms_norm_eps=np.float32(config.rms_norm_eps),
        query_scale=np.float32(1 / np.sqrt(config.head_dim)),
        relu2=config.activation == "relu2",
        sub_norms=config.sub_norms,
        head_kernel=int(_HEAD_KERNELS[weights.head.dtype]),
    )


def _copied(config: ModelConfig, values: npt.NDArray[np.generic], scales: Floats) -> int:
    """Return the bytes of a matrix that was converted or padded; any other one is the file's own pages."""
    in_file = scales.size == 0 and values.shape[1] == config.hidden_size
    return 0 if in_file else values.nbytes + scales.nbytes

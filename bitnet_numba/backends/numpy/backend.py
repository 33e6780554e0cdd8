"""The NumPy backend: a model runner in plain NumPy, slow and obviously right, the oracle of every other backend.

The integer sums of linear layers are exact and everything else is float64. Whatever BLAS would sum in another order in
a larger batch is computed token by token.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.chunk_checks import Place, check_hidden_states, checked_chunks, fault_error
from bitnet_numba.backends.numpy import operators
from bitnet_numba.backends.numpy.kv_cache import KVCache
from bitnet_numba.backends.numpy.operators import KERNELS
from bitnet_numba.backends.numpy.sampling import NumPySampling
from bitnet_numba.backends.protocol import PAGE_POSITIONS, Candidates, Counts, TokenChunk
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.rope_scaling import rope_frequencies
from bitnet_numba.model.source import ModelSource

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Chunks = Sequence[TokenChunk[KVCache]]
_PLACES = {"attn_output": Place.ATTENTION_OUTPUT, "ffn_gate": Place.FFN_INPUT, "ffn_down": Place.FFN_GATED}
P = ParamSpec("P")
R = TypeVar("R")


class NumPyBackend(NumPySampling):
    """A model of any family, its weights as floats for BLAS; keys and values are rounded to ``kv_type``."""

    threads, threads_reason, isa = 1, "the NumPy backend", "numpy"

    def __init__(self, source: ModelSource, *, kv_type: str = "f16", max_context: int | None = None) -> None:
        self.config = config = source.config
        self.kv_type, self.max_context = kv_type, max_context or config.max_seq_len
        layers = range(config.n_layers)
        norms = ["attn_norm", "ffn_norm", *(["attn_sub_norm", "ffn_sub_norm"] if config.sub_norms else [])]
        places: list[tuple[str, int | None]] = [(role, layer) for role in norms for layer in layers]
        self._linears = {(role, layer): _linear(source, role, layer) for role in LINEAR_ROLES for layer in layers}
        self._norms = {place: source.norm(*place) for place in [*places, ("output_norm", None)]}
        self._embedding = operators.embedding(*source.matrix("token_embd"))
        self._head = self._embedding if source.tied else operators.embedding(*source.matrix("output"))
        self._frequencies = rope_frequencies(source)
        self._page_shape = config.n_layers, 2, config.n_kv_heads, PAGE_POSITIONS, config.head_dim
        self._counts = np.zeros(len(KERNELS), np.int64)

    # ---- the forward pass --------------------------------------------------------------------------------------------
    def forward(self, chunks: Chunks) -> list[list[Candidates]]:
        """Run one step; each position gets all its logits. Raises what :func:`checked_chunks` does."""
        chunks = checked_chunks(chunks, self.config.vocab_size, self.max_context)
        for page_shape in {chunk.cache.page_shape for chunk in chunks} - {self._page_shape}:
            raise ParameterError(f"cache: made for a model of other sizes, {page_shape}; take one from new_cache")
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit float32 is looked for, and refused
            results = self._results(chunks)
        check_hidden_states(itertools.chain.from_iterable(results))
        for chunk in chunks:
            chunk.cache.length += chunk.tokens.size
        return results

    def _results(self, chunks: Chunks) -> list[list[Candidates]]:
        *_, hidden = self.hidden_states(chunks)
        results, end = [], 0
        for chunk in chunks:
            end += chunk.tokens.size
            rows = hidden[end - chunk.n_logits : end]
            logits = self._run(operators.head_product, self._head, None, rows) if chunk.n_logits else rows
            positions = zip(logits.astype(np.float32), rows.astype(np.float32), strict=True)
            results.append([Candidates(row, hidden=state) for row, state in positions])
        return results

    def hidden_states(self, chunks: Chunks) -> Iterator[Doubles]:
        """Yield the embeddings [n_tokens, hidden_size], each layer's output, and the last one after the output norm.

        Keys and values are written to the caches, whose lengths do not change.
        """
        x = self._run(operators.embedding, self._embedding[np.concatenate([chunk.tokens for chunk in chunks])])
        yield x
        for layer in range(self.config.n_layers):
            x = x + self._attention(x, layer, chunks)
            x = x + self._feed_forward(x, layer)
            yield x
        yield self._norm(x, "output_norm", None)

    def _attention(self, x: Doubles, layer: int, chunks: Chunks) -> Doubles:
        config, heads = self.config, (len(x), -1, self.config.head_dim)
        positions = [range(chunk.cache.length, chunk.cache.length + chunk.tokens.size) for chunk in chunks]
        table = operators.rope_table(self._frequencies, np.concatenate(positions), config.head_dim // 2)[:, None]
        h = self._norm(x, "attn_norm", layer)
        query = self._run(operators.rope, self._linear(h, "attn_q", layer).reshape(heads), table)
        key = self._run(operators.rope, self._linear(h, "attn_k", layer).reshape(heads), table)
        value = self._linear(h, "attn_v", layer).reshape(heads)
        stored = [self._run(operators.round_kv, y.astype(np.float32), self.kv_type) for y in (key, value)]
        if not all(np.isfinite(rows).all() for rows in stored):
            raise fault_error(Place.KEYS_AND_VALUES, layer, self.kv_type)
        query = query.reshape(len(x), config.n_kv_heads, -1, config.head_dim) / np.sqrt(config.head_dim)

        outputs: list[Doubles] = []
        for chunk, at in zip(chunks, positions, strict=True):
            rows = slice(len(outputs), len(outputs) + len(at))
            keys, values = chunk.cache.append(layer, [y[rows].swapaxes(0, 1) for y in stored])
            for token, position in zip(query[rows], at, strict=True):
                visible = slice(position + 1)  # the causal mask
                outputs.append(self._run(operators.attend, token, keys[:, visible], values[:, visible]))
        o = np.stack(outputs).reshape(len(x), -1)
        return self._linear(self._norm(o, "attn_sub_norm", layer) if config.sub_norms else o, "attn_output", layer)

    def _feed_forward(self, x: Doubles, layer: int) -> Doubles:
        h = self._norm(x, "ffn_norm", layer)
        gated = operators.gated_relu2 if self.config.activation == "relu2" else operators.gated_silu
        f = self._run(gated, self._linear(h, "ffn_gate", layer), self._linear(h, "ffn_up", layer))
        return self._linear(self._norm(f, "ffn_sub_norm", layer) if self.config.sub_norms else f, "ffn_down", layer)

    def _norm(self, x: Doubles, role: str, layer: int | None) -> Doubles:
        return self._run(operators.rms_norm, x, self._norms[role, layer], self.config.rms_norm_eps, x.shape[1])

    def _linear(self, x: Doubles, role: str, layer: int) -> Doubles:
        """BitLinear: quantize each token to int8, multiply exactly, put both scales back."""
        weights, scale = self._linears[role, layer]
        activations = x.astype(np.float32)
        if not np.isfinite(activations).all():
            raise fault_error(_PLACES.get(role, Place.ATTENTION_INPUT), layer, self.kv_type)
        scales, q = self._run(operators.quantize_absmax, activations)
        return operators.scale(self._run(operators.ternary_product, weights, q), scale / scales[:, None])

    def _run(self, operator: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run an operator and count it."""
        self._counts[KERNELS.index(f"numpy_{operator.__name__}")] += 1
        return operator(*args, **kwargs)

    # ---- what else generation needs ----------------------------------------------------------------------------------
    def new_cache(self, capacity: int) -> KVCache:
        """Allocate a KV cache; ResourceError where memory or the context is too small."""
        if capacity > self.max_context:
            raise ResourceError(
                f"{capacity:,} positions asked for, the context holds {self.max_context:,}: "
                "shorten the prompt or raise max_context"
            )
        return KVCache(self._page_shape, capacity)

    def counts(self) -> Counts:
        """Return how often each operator has run in :meth:`forward` so far."""
        return self._counts.copy()

    def memory(self, prefix_pages: int) -> dict[str, int]:
        """Return bytes by role; a tied head has none."""
        page, context_pages = 4 * int(np.prod(self._page_shape)), -(-self.max_context // PAGE_POSITIONS)
        ternary = sum(weights.nbytes for weights, _ in self._linears.values())
        embedding, head = self._embedding.nbytes, 0 if self._head is self._embedding else self._head.nbytes
        rest = self._frequencies.nbytes + sum(norm.nbytes for norm in self._norms.values())
        sizes = {"ternary_weights": ternary, "embedding": embedding, "head": head, "norms_scales_and_rope": rest}
        sizes |= {"kv_cache_of_full_context": page * context_pages, "cached_prefixes_at_most": page * prefix_pages}
        details = {"embedding_and_head_copied": embedding + head, "kv_cache_per_position": page // PAGE_POSITIONS}
        return {**sizes, **details, "head_int8_copy": 0, "scratch": 0, "total": sum(sizes.values())}

    def close(self) -> None:
        """Free the weights; no step can run after."""
        self._linears.clear()
        self._embedding = self._head = np.zeros((0, 0))


def _linear(source: ModelSource, role: str, layer: int) -> tuple[Floats, np.float64]:
    """Return the weights and their scale; the rows of q and k so that RoPE's pairs are half a head apart."""
    matrix, config = source.linear(role, layer), source.config
    weights = matrix.unpacked().astype(np.float32)
    if config.adjacent_pairs and role in ("attn_q", "attn_k"):
        pairs = weights.reshape(-1, config.head_dim // 2, 2, config.hidden_size)
        weights = pairs.swapaxes(1, 2).reshape(weights.shape)
    return weights, np.float64(matrix.scale)

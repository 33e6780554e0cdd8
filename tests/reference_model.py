"""The forward pass of every family in plain NumPy, after the papers: slow, and sharing no code with the engine."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.packing import bf16_to_float32
from bitnet_numba.model.config import ModelConfig, RopeScaling
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.source import ModelSource

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Int8s = npt.NDArray[np.int8]


@dataclass(frozen=True)
class ReferenceModel:
    """A model as plain arrays.

    Attributes
    ----------
    config : ModelConfig
        ``adjacent_pairs`` says how the rows of q and k are stored here.
    linears : mapping of (role, layer) to (int8[rows, columns], scale)
    norms : mapping of (role, layer or None) to float32[length]
    embedding, head : float32[vocab_size, hidden_size]
    rope_factors : float64[head_dim // 2]
        What each frequency is divided by.
    """

    config: ModelConfig
    linears: Mapping[tuple[str, int], tuple[Int8s, np.float32]]
    norms: Mapping[tuple[str, int | None], Floats]
    embedding: Floats
    head: Floats
    rope_factors: Doubles

    def hidden_states(self, tokens: npt.NDArray[np.int32], kv_type: str = "f16") -> list[Floats]:
        """Return the embeddings, what each layer leaves, and the last of these after the output norm.

        Parameters
        ----------
        tokens : int32[n_tokens]
        kv_type : {"f16", "f32"}
            What keys and values are rounded to.

        Returns
        -------
        list of float32[n_tokens, hidden_size]
        """
        states = [self.embedding[tokens]]
        for layer in range(self.config.n_layers):
            x = states[-1]
            x = x + self._attention(x, layer, kv_type)
            states.append(x + self._feed_forward(x, layer))
        return [*states, self._norm(states[-1], "output_norm", None)]

    def logits(self, tokens: npt.NDArray[np.int32], kv_type: str = "f16") -> Floats:
        """Return the logits of every position, float32[n_tokens, vocab_size]."""
        normed = self.hidden_states(tokens, kv_type)[-1]
        return np.asarray(normed.astype(np.float64) @ self.head.T.astype(np.float64), np.float32)

    def _attention(self, x: Floats, layer: int, kv_type: str) -> Floats:
        config, n_tokens = self.config, len(x)
        h = self._norm(x, "attn_norm", layer)
        heads = n_tokens, -1, config.head_dim
        query = self._rope(self._linear(h, "attn_q", layer).reshape(heads))
        key = self._rope(self._linear(h, "attn_k", layer).reshape(heads))
        value = self._linear(h, "attn_v", layer).reshape(heads)
        if kv_type == "f16":
            key, value = key.astype(np.float16), value.astype(np.float16)
        group = config.n_heads // config.n_kv_heads
        out = np.empty((n_tokens, config.n_heads, config.head_dim), np.float32)
        for head in range(config.n_heads):
            keys, values = key[:, head // group].astype(np.float64), value[:, head // group].astype(np.float64)
            scores = query[:, head].astype(np.float64) @ keys.T / np.sqrt(config.head_dim)
            scores[np.triu_indices(n_tokens, 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ values
        o = out.reshape(n_tokens, -1)
        if config.sub_norms:
            o = self._norm(o, "attn_sub_norm", layer)
        return self._linear(o, "attn_output", layer)

    def _feed_forward(self, x: Floats, layer: int) -> Floats:
        h = self._norm(x, "ffn_norm", layer)
        gate, up = self._linear(h, "ffn_gate", layer), self._linear(h, "ffn_up", layer)
        if self.config.activation == "relu2":
            f = np.maximum(gate, np.float32(0)) ** 2 * up
        else:
            f = (gate / (1 + np.exp(-gate.astype(np.float64)))).astype(np.float32) * up
        if self.config.sub_norms:
            f = self._norm(f, "ffn_sub_norm", layer)
        return self._linear(f, "ffn_down", layer)

    def _norm(self, x: Floats, role: str, layer: int | None) -> Floats:
        mean_square = (x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True)
        return np.asarray(x / np.sqrt(mean_square + self.config.rms_norm_eps), np.float32) * self.norms[role, layer]

    def _linear(self, x: Floats, role: str, layer: int) -> Floats:
        """BitLinear: activations to int8 by the largest of each token, exact integer sums, both scales back."""
        weights, scale = self.linears[role, layer]
        per_unit = np.float32(127) / np.maximum(np.abs(x).max(axis=1, keepdims=True), np.float32(1e-5))
        q = np.clip(np.rint(x * per_unit), -128, 127)
        sums = q.astype(np.int64) @ weights.T.astype(np.int64)
        return sums.astype(np.float32) * (scale / per_unit)

    def _rope(self, heads: Floats) -> Floats:
        """Turn each pair of float32[n_tokens, n_heads, head_dim] as a complex number."""
        pairs = self.config.head_dim // 2
        shape = (*heads.shape[:2], pairs, 2) if self.config.adjacent_pairs else (*heads.shape[:2], 2, pairs)
        axis = -1 if self.config.adjacent_pairs else -2
        first, second = np.moveaxis(heads.astype(np.float64).reshape(shape), axis, 0)
        angle = np.arange(len(heads))[:, None] * (inverse_frequencies(self.config) / self.rope_factors)
        turned = (first + 1j * second) * np.exp(1j * angle)[:, None, :]
        return np.asarray(np.stack([turned.real, turned.imag], axis).reshape(heads.shape), np.float32)


def inverse_frequencies(config: ModelConfig) -> Doubles:
    """Return the angle of each pair at position 1, before any scaling."""
    return config.rope_theta ** (-2.0 * np.arange(config.head_dim // 2) / config.head_dim)


def scaling_factors(config: ModelConfig) -> Doubles:
    """Return what the configured scaling divides each frequency by, float64[head_dim // 2].

    References
    ----------
    llama.cpp, ``convert_hf_to_gguf.py``: the tensor ``rope_freqs`` of Llama 3.1.
    """
    scaling, frequencies = config.rope_scaling, inverse_frequencies(config)
    if scaling is None:
        return np.ones(frequencies.size)
    if scaling.bands is None:
        return np.full(frequencies.size, scaling.factor)
    return np.array([_llama3_factor(scaling, *scaling.bands, 2 * np.pi / frequency) for frequency in frequencies])


def _llama3_factor(scaling: RopeScaling, low: float, high: float, context: int, wavelength: float) -> float:
    if wavelength < context / high:
        return 1
    if wavelength > context / low:
        return scaling.factor
    smooth = (context / wavelength - low) / (high - low)
    return 1 / ((1 - smooth) / scaling.factor + smooth)


def reference_of(source: ModelSource) -> ReferenceModel:
    """Return an open model file as plain arrays."""
    config, layers = source.config, range(source.config.n_layers)
    linears = {(role, layer): source.linear(role, layer) for role in LINEAR_ROLES for layer in layers}
    roles = ("attn_norm", "ffn_norm", *(("attn_sub_norm", "ffn_sub_norm") if config.sub_norms else ()))
    norms: dict[tuple[str, int | None], Floats] = {
        (role, layer): source.norm(role, layer) for role in roles for layer in layers
    }
    factors = source.rope_factors()
    embedding = _plain(source.matrix("token_embd").values)
    return ReferenceModel(
        config,
        {place: (matrix.unpacked(), matrix.scale) for place, matrix in linears.items()},
        norms | {("output_norm", None): source.norm("output_norm", None)},
        embedding,
        embedding if source.tied else _plain(source.matrix("output").values),
        scaling_factors(config) * (1 if factors is None else factors),
    )


def _plain(values: npt.NDArray[np.generic]) -> Floats:
    """Return a float matrix as float32; float16 and bfloat16 come as uint16 and int16 bits."""
    if values.dtype == np.int16:
        return bf16_to_float32(values.view(np.uint16))
    return (values.view(np.float16) if values.dtype == np.uint16 else values).astype(np.float32)

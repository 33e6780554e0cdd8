"""A verifier of receipts in plain NumPy, written from ``docs/reference/numeric-spec.md`` alone.

It shares no arithmetic with the package: it takes a file's bytes through the reader of GGUF, and computes everything
else as that page says, one position after the other. Slow, and of one family, ``bitnet-b1.58``, whose linear layers are
I2_S and whose embedding is BF16: the embedded model's.
"""

import hashlib
import math
from collections.abc import Sequence
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.gguf import open_gguf

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
F = np.float32
LANES = 16
MASKED, LOWEST = F(-1e30), F(-64)


# ---- 1. float32 operations -------------------------------------------------------------------------------------------
def fma(x: Any, y: Any, z: Any) -> Floats:
    """x * y + z, rounded once: the exact product in float64, the sum rounded to odd, then to float32."""
    product, addend = np.multiply(x, y, dtype=np.float64), np.asarray(z, np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64) if total.ndim else np.array(total).view(np.int64)
    outward = (bits ^ np.asarray(error).view(np.int64)) >= 0
    odd = bits + np.where(outward, 1, -1)
    exact = np.where((error != 0) & (bits & 1 == 0), odd, bits)
    return exact.view(np.float64).astype(F)


def tree_sum(lanes: Floats) -> F:
    """Sum of sixteen lanes: 8 with 8, 4 with 4, 2 with 2, 1 with 1."""
    while lanes.size > 1:
        half = lanes.size // 2
        lanes = lanes[:half] + lanes[half:]
    return F(lanes[0])


def padded(x: Floats, multiple: int) -> Floats:
    return np.concatenate([x, np.zeros(-x.size % multiple, F)])


def exp(x: Floats) -> Floats:
    """The exponential of numbers up to 0."""
    y = np.maximum(x, LOWEST)
    n = (y * F(1.4426950408889634) + F(1.5 * 2**23)) - F(1.5 * 2**23)
    r = fma(n, F(2.12194440e-4), fma(n, F(-0.693359375), y))
    p = fma(F(1 / 5040), r, F(1 / 720))
    for factor in (120, 24, 6, 2):
        p = fma(p, r, F(1 / factor))
    p = fma(r * r, p, r) + F(1)
    return np.where(x > LOWEST, np.ldexp(p, n.astype(np.int32)), F(0)).astype(F)


# ---- 2. layers -------------------------------------------------------------------------------------------------------
def rms_norm(x: Floats, weight: Floats, eps: F) -> Floats:
    squares = np.zeros(LANES, F)
    for part in padded(x, LANES).reshape(-1, LANES):
        squares = fma(part, part, squares)
    scale = F(1) / np.sqrt(tree_sum(squares) / F(x.size) + eps)
    return (x * scale) * weight


def quantize(x: Floats) -> tuple[F, npt.NDArray[np.int64]]:
    scale = F(127) / max(F(np.abs(x).max()), F(1e-5))
    return scale, np.rint(np.clip(x * scale, F(-128), F(127))).astype(np.int64)


def linear(weights: npt.NDArray[np.int8], q: npt.NDArray[np.int64]) -> Floats:
    """Exact sums, as float32."""
    return (weights.astype(np.int64) @ q).astype(F)


def rope_rows(theta: float, head_dim: int, n_positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines, [n_positions, head_dim / 2]."""
    context = Context(prec=30)
    log_theta = Decimal(theta).ln(context)
    powers = [
        context.exp(context.divide(context.multiply(log_theta, Decimal(-2 * i)), Decimal(head_dim)))
        for i in range(head_dim // 2)
    ]
    angle = np.arange(n_positions, dtype=np.float64)[:, None] * np.array([float(power) for power in powers])
    quarter = np.rint(angle * (2 / np.pi))
    rest = angle - quarter * 1.5707963109016418
    rest = (rest - quarter * 1.5893254712295857e-08) - quarter * 6.123233995736766e-17
    square = rest * rest
    sine = rest * series([(-1.0) ** k / math.factorial(2 * k + 1) for k in range(9)], square)
    cosine = series([(-1.0) ** k / math.factorial(2 * k) for k in range(10)], square)
    quadrant = quarter.astype(np.int64) % 4
    cosines = np.choose(quadrant, (cosine, -sine, -cosine, sine))
    return cosines.astype(F), np.choose(quadrant, (sine, cosine, -sine, -cosine)).astype(F)


def series(terms: Sequence[float], x: Doubles) -> Doubles:
    total = np.full_like(x, terms[-1])
    for term in reversed(terms[:-1]):
        total = total * x + term
    return total


def rotate(heads: Floats, cosine: Floats, sine: Floats) -> Floats:
    half = heads.shape[1] // 2
    first, second = heads[:, :half], heads[:, half:]
    return np.hstack([first * cosine - second * sine, second * cosine + first * sine])


def attend(query: Floats, keys: Floats, values: Floats) -> Floats:
    """One query over all positions [n, head_dim], in blocks of 256."""
    best, total, out = MASKED, F(0), np.zeros(values.shape[1], F)
    for begin in range(0, len(keys), 256):
        block_keys, block_values = keys[begin : begin + 256], values[begin : begin + 256]
        scores = np.zeros(len(block_keys), F)
        for i in range(query.size):
            scores = fma(block_keys[:, i], query[i], scores)
        highest = scores.max()
        weights = exp(scores - highest)
        lanes = np.zeros(LANES, F)
        for part in padded(weights, LANES).reshape(-1, LANES):
            lanes = lanes + part
        added = np.zeros_like(out)
        for weight, value in zip(weights, block_values, strict=True):
            added = fma(value, weight, added)
        new_best = max(best, highest)
        old_factor, new_factor = exp(np.array([best - new_best, highest - new_best], F))
        best, total = new_best, old_factor * total + new_factor * tree_sum(lanes)
        out = fma(added, new_factor, out * old_factor)
    return out * (F(1) / total)


def head_row(row: Floats, hidden: Floats) -> F:
    a, b = np.zeros(LANES, F), np.zeros(LANES, F)
    for x, y in zip(padded(row, 32).reshape(-1, 2, LANES), padded(hidden, 32).reshape(-1, 2, LANES), strict=True):
        a, b = fma(x[0], y[0], a), fma(x[1], y[1], b)
    return tree_sum(a + b)


# ---- 3. the model ----------------------------------------------------------------------------------------------------
class Model:
    def __init__(self, path: Path) -> None:
        self._file = open_gguf(path)
        meta = self._file.metadata
        prefix = f"{meta['general.architecture']}."
        self.n_layers = meta[f"{prefix}block_count"]
        self.n_heads, self.n_kv_heads = meta[f"{prefix}attention.head_count"], meta[f"{prefix}attention.head_count_kv"]
        self.head_dim = meta[f"{prefix}rope.dimension_count"]
        self.eps = F(meta[f"{prefix}attention.layer_norm_rms_epsilon"])
        self.cosines, self.sines = rope_rows(meta[f"{prefix}rope.freq_base"], self.head_dim, 512)
        bits = self._file.data("token_embd.weight").view("<u2").astype(np.uint32) << 16
        self.embedding = bits.view(F).reshape(self._file.tensors["token_embd.weight"].shape)
        names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        self.linears = {(name, layer): self._linear(name, layer) for name in names for layer in range(self.n_layers)}
        self.keys: list[list[Floats]] = [[] for _ in range(self.n_layers)]
        self.values: list[list[Floats]] = [[] for _ in range(self.n_layers)]

    def _linear(self, name: str, layer: int) -> tuple[npt.NDArray[np.int8], F]:
        tensor = f"blk.{layer}.{name}.weight"
        data = np.array(self._file.data(tensor))
        runs = data[:-32].reshape(-1, 32)
        codes = np.stack([runs >> 6, runs >> 4 & 3, runs >> 2 & 3, runs & 3], axis=1)
        weights = codes.reshape(self._file.tensors[tensor].shape).astype(np.int8) - 1
        return weights, F(data[-32:-28].view("<f4")[0])

    def _norm(self, name: str, x: Floats) -> Floats:
        return rms_norm(x, np.array(self._file.data(f"{name}.weight")).view(F), self.eps)

    def hidden_state(self, token: int) -> Floats:
        """Append a token; return the final hidden state after the output norm."""
        x = self.embedding[token]
        for layer in range(self.n_layers):
            x = self._attention(layer, x)
            x = self._feed_forward(layer, x)
        return self._norm("output_norm", x)

    def _attention(self, layer: int, x: Floats) -> Floats:
        scale, q = quantize(self._norm(f"blk.{layer}.attn_norm", x))
        position, shape = len(self.keys[layer]), (-1, self.head_dim)
        projected = {}
        for name in ("attn_q", "attn_k", "attn_v"):
            weights, weight_scale = self.linears[name, layer]
            factor = weight_scale / scale
            if name == "attn_q":
                factor = factor * F(1 / np.sqrt(self.head_dim))
            projected[name] = (linear(weights, q) * factor).reshape(shape)
        cosine, sine = self.cosines[position], self.sines[position]
        query, key = rotate(projected["attn_q"], cosine, sine), rotate(projected["attn_k"], cosine, sine)
        self.keys[layer].append(key.astype(np.float16).astype(F))
        self.values[layer].append(projected["attn_v"].astype(np.float16).astype(F))
        keys, values = np.stack(self.keys[layer]), np.stack(self.values[layer])
        group = self.n_heads // self.n_kv_heads
        heads = [attend(query[h], keys[:, h // group], values[:, h // group]) for h in range(self.n_heads)]
        return self._add("attn_output", layer, self._norm(f"blk.{layer}.attn_sub_norm", np.concatenate(heads)), x)

    def _feed_forward(self, layer: int, x: Floats) -> Floats:
        scale, q = quantize(self._norm(f"blk.{layer}.ffn_norm", x))
        (gate, gate_scale), (up, up_scale) = self.linears["ffn_gate", layer], self.linears["ffn_up", layer]
        g = np.maximum(linear(gate, q) * (gate_scale / scale), F(0))
        u = linear(up, q) * (up_scale / scale)
        return self._add("ffn_down", layer, self._norm(f"blk.{layer}.ffn_sub_norm", (g * g) * u), x)

    def _add(self, name: str, layer: int, x: Floats, residual: Floats) -> Floats:
        scale, q = quantize(x)
        weights, weight_scale = self.linears[name, layer]
        return residual + linear(weights, q) * (weight_scale / scale)

    def logits(self, hidden: Floats) -> Floats:
        """All logits; of a tied head."""
        a, b = np.zeros((len(self.embedding), LANES), F), np.zeros((len(self.embedding), LANES), F)
        for i in range(0, hidden.size, 32):
            a = fma(self.embedding[:, i : i + 16], hidden[i : i + 16], a)
            b = fma(self.embedding[:, i + 16 : i + 32], hidden[i + 16 : i + 32], b)
        lanes = a + b
        while lanes.shape[1] > 1:
            lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
        return lanes[:, 0]


# ---- 4. the choice of a token ----------------------------------------------------------------------------------------
def choose(logits: Floats, temperature: float, seed: int | None, n_chosen: int) -> int:
    """Greedy at temperature 0, else a draw from all tokens."""
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    weights = exp(np.maximum(scaled, -1000).astype(F)).astype(np.float64)
    step = 0x9E3779B97F4A7C15
    offset = (int(np.random.PCG64(seed).random_raw()) + n_chosen * logits.size * step) % 2**64
    ids = np.arange(1, logits.size + 1, dtype=np.uint64)
    state = np.uint64(offset) + ids * np.uint64(step)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = (state ^ (state >> np.uint64(31))) >> np.uint64(12)
    uniform = (bits.astype(np.float64) + 0.5) / 2.0**52
    times = np.full(logits.size, np.inf)
    np.divide(-np.log(uniform), weights, out=times, where=weights > 0)
    near = np.flatnonzero(times <= times.min() * (1 + 1e-9))
    precise = Context(prec=28)
    exact = [float(-Decimal(float(uniform[i])).ln(precise)) / float(weights[i]) for i in near]
    return int(near[int(np.argmin(exact))])


# ---- 5. the receipt --------------------------------------------------------------------------------------------------
def verify(receipt: dict[str, Any], path: Path) -> list[str]:
    """Return what differs: leaves and tokens, of a receipt with an f16 KV cache, greedy or with a temperature alone."""
    model, sampling, problems = Model(path), receipt["sampling"], []
    for token in receipt["prompt_token_ids"][:-1]:
        model.hidden_state(token)
    last, leaves = receipt["prompt_token_ids"][-1], []
    stop = receipt["stop_token_id"]
    sampled = [*receipt["token_ids"], *([] if stop is None else [stop])]
    for position, token in enumerate(sampled):
        if position % 16 == 0:
            leaves.append(hashlib.sha256(b"\x00"))
        hidden = model.hidden_state(last)
        leaves[-1].update(hidden.astype("<f4").tobytes())
        if choose(model.logits(hidden), sampling["temperature"], sampling["seed"], position) != token:
            problems.append(f"token {position}")
        last = token
    digests = [leaf.digest() for leaf in leaves]
    problems += [f"leaf {i}" for i, leaf in enumerate(digests) if leaf.hex() != receipt["hidden_leaves"][i]]
    return problems if root(digests).hex() == receipt["hidden_root"] else [*problems, "root"]


def root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + root(leaves[:left]) + root(leaves[left:])).digest()

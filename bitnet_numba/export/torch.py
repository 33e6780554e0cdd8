"""Export to PyTorch: a ``torch.export`` program, a ``.pt2`` file that needs none of this project's code."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitnet_numba.errors import ParameterError
from bitnet_numba.export.portable import (
    PROMPT,
    Exported,
    Floats,
    TokenIds,
    export_compared,
    linear_weights,
    rotations,
    stored_matrix,
)
from bitnet_numba.model.config import ModelConfig
from bitnet_numba.model.roles import LINEAR_ROLES, NORM_ROLES
from bitnet_numba.model.source import ModelSource

SHIFTS = (0, 2, 4, 6)  # of the four weights in a byte; codes 0, 1, 2 are -1, 0, +1
MIN_TOKENS = 2  # a program traced with one token is specialized to one


def export_torch(
    source: ModelSource,
    out_path: Path,
    *,
    max_context: int | None = None,
    prompt: str = PROMPT,
    torchscript: bool = False,
) -> Exported:
    """Write a model with ``torch.export``, load and run the file, and keep it only if its logits are the engine's.

    The program computes logits, float32[n_tokens, vocab_size], of token ids, int64[n_tokens], without a KV cache.
    Ternary weights are stored with two bits each, and converted to float32 while a layer computes. ``max_context`` is
    the largest number of tokens of one run, by default the context length of the training; it and the prompt of the
    comparison are at least two tokens. ``torchscript`` writes TorchScript instead, which PyTorch deprecates, for
    programs that read nothing else.
    """

    def save(context: int, ids: TokenIds, path: Path) -> None:
        if ids.size < MIN_TOKENS:
            raise ParameterError(
                "the prompt of the check has one token; give a longer one, and a context of at least 2"
            )
        model = Model(source, context).eval()
        if torchscript:
            with torch.no_grad(), _deprecation_ignored():
                torch.jit.trace(model, (torch.from_numpy(ids),)).save(str(path))
            return
        n_tokens = {0: torch.export.Dim("n_tokens", min=MIN_TOKENS, max=context)} if context > MIN_TOKENS else None
        program = torch.export.export(model, (torch.from_numpy(ids),), dynamic_shapes={"ids": n_tokens})
        torch.export.save(program, str(path))

    run = run_script if torchscript else run_torch
    return export_compared(source, out_path, max_context, prompt, save, run, f"torch {torch.__version__}")


def run_torch(path: Path, ids: TokenIds) -> Floats:
    """Run an exported model over token ids int64[n_tokens]; return its logits, float32[n_tokens, vocab_size]."""
    with torch.inference_mode():
        logits: Floats = torch.export.load(str(path)).module()(torch.from_numpy(ids)).numpy()
    return logits


def run_script(path: Path, ids: TokenIds) -> Floats:
    """Run a TorchScript file as :func:`run_torch` does."""
    with torch.inference_mode(), _deprecation_ignored():
        logits: Floats = torch.jit.load(str(path))(torch.from_numpy(ids)).numpy()
    return logits


@contextmanager
def _deprecation_ignored() -> Iterator[None]:
    """Ignore PyTorch's deprecation warnings about TorchScript, which was requested."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # it depends on PyTorch's version
            warnings.simplefilter("ignore", category)
        yield


# ---- the model, in the arithmetic of backends/numpy/operators.py -----------------------------------------------------
class Model(nn.Module):
    """Embedding, layers and head."""

    def __init__(self, source: ModelSource, context: int) -> None:
        super().__init__()
        config = source.config
        self.register_buffer("embedding", _stored(source, "token_embd"))
        if not source.tied:
            self.register_buffer("head", _stored(source, "output"))
        self.is_tied = source.tied
        cosines, sines = rotations(source, context)
        self.register_buffer("cosines", torch.from_numpy(cosines[:, None, :]))
        self.register_buffer("sines", torch.from_numpy(sines[:, None, :]))
        self.layers = nn.ModuleList(Layer(source, layer) for layer in range(config.n_layers))
        self.output_norm = Norm(source, "output_norm", None)

    def forward(self, ids: Tensor) -> Tensor:
        """Return float32[n_tokens, vocab_size]."""
        x = functional.embedding(ids, self.embedding).float()
        cosines, sines = self.cosines[: ids.shape[0]], self.sines[: ids.shape[0]]
        for layer in self.layers:
            x = layer(x, cosines, sines)
        head = self.embedding if self.is_tied else self.head
        return functional.linear(self.output_norm(x), head.float())


class Layer(nn.Module):
    """Attention, then the feed-forward network, each with a residual connection."""

    def __init__(self, source: ModelSource, layer: int) -> None:
        super().__init__()
        self.config: ModelConfig = source.config
        self.linears = nn.ModuleDict({role: Ternary(source, role, layer) for role in LINEAR_ROLES})
        norms = NORM_ROLES if source.config.sub_norms else ("attn_norm", "ffn_norm")
        self.norms = nn.ModuleDict({role: Norm(source, role, layer) for role in norms})

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Return float32[n_tokens, hidden_size]."""
        x = x + self.attention(x, cosines, sines)
        return x + self.feed_forward(x)

    def attention(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Compute causal attention with its norms and projections."""
        config, linears, n_tokens = self.config, self.linears, x.shape[0]
        h = self.norms["attn_norm"](x)
        group = config.n_heads // config.n_kv_heads
        query = rotated(linears["attn_q"](h).view(n_tokens, -1, config.head_dim), cosines, sines)
        key = rotated(linears["attn_k"](h).view(n_tokens, -1, config.head_dim), cosines, sines)
        value = linears["attn_v"](h).view(n_tokens, -1, config.head_dim)
        queries = query.view(n_tokens, config.n_kv_heads, group, config.head_dim).permute(1, 2, 0, 3)
        scores = queries @ key.permute(1, 2, 0).unsqueeze(1) * config.head_dim**-0.5
        positions = torch.arange(n_tokens, device=x.device)
        scores = scores.masked_fill(positions > positions[:, None], float("-inf"))
        attention_output = scores.softmax(dim=-1) @ value.permute(1, 0, 2).unsqueeze(1)
        out = attention_output.permute(2, 0, 1, 3).reshape(n_tokens, -1)
        return linears["attn_output"](self.norms["attn_sub_norm"](out) if config.sub_norms else out)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Compute the gated feed-forward network."""
        h = self.norms["ffn_norm"](x)
        gate, up = self.linears["ffn_gate"](h), self.linears["ffn_up"](h)
        activated = functional.relu(gate).square() if self.config.activation == "relu2" else functional.silu(gate)
        gated = activated * up
        return self.linears["ffn_down"](self.norms["ffn_sub_norm"](gated) if self.config.sub_norms else gated)


class Norm(nn.Module):
    """RMSNorm, in float32."""

    def __init__(self, source: ModelSource, role: str, layer: int | None) -> None:
        super().__init__()
        self.eps = source.config.rms_norm_eps
        self.register_buffer("weight", torch.from_numpy(source.norm(role, layer).copy()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return x / (x.square().mean(dim=-1, keepdim=True) + self.eps).sqrt() * self.weight


class Ternary(nn.Module):
    """BitLinear: int8 activations, exact integer sums, both scales."""

    def __init__(self, source: ModelSource, role: str, layer: int) -> None:
        super().__init__()
        weights, scale = linear_weights(source, role, layer)
        self.columns = weights.shape[1]
        self.register_buffer("packed", torch.from_numpy(pack_quarters(weights)))
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[n_tokens, rows]."""
        inverse_scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
        quantized = (x * inverse_scale).round().clamp(-128, 127)
        codes = torch.stack([self.packed >> shift & 3 for shift in SHIFTS], dim=-1).flatten(1)
        sums = functional.linear(quantized, codes[:, : self.columns].float() - 1)  # below 2**24: exact in float32
        return sums * (self.scale / inverse_scale)


def rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of float32[n_tokens, n_heads, head_dim]."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def pack_quarters(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack ternary weights int8[rows, columns] four a byte, lowest bits first: uint8[rows, bytes]."""
    rows, columns = weights.shape
    codes = np.ones((rows, -(-columns // 4) * 4), np.uint8)
    codes[:, :columns] = weights + 1
    quarters = codes.reshape(rows, -1, 4)
    packed = np.zeros(quarters.shape[:2], np.uint8)
    for index, shift in enumerate(SHIFTS):
        packed |= quarters[:, :, index] << shift
    return packed


def _stored(source: ModelSource, role: str) -> Tensor:
    values = torch.from_numpy(stored_matrix(source, role).copy())
    return values.view(torch.bfloat16) if values.dtype == torch.int16 else values

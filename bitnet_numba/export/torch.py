"""PyTorch: the model as a ``torch.export`` program, a ``.pt2`` file that needs none of this project's code."""

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
    checked_context,
    compared,
    engine_logits,
    float_matrix,
    kept_if_right,
    linear_weights,
    prompt_ids,
    rotations,
)
from bitnet_numba.model.config import ModelConfig
from bitnet_numba.model.source import ModelSource

SHIFTS = (0, 2, 4, 6)  # where a byte holds its four weights; 0, 1, 2 are -1, 0, +1
MIN_TOKENS = 2  # a program that is traced with one token is one for one token


def export_torch(
    source: ModelSource,
    out_path: Path,
    *,
    max_context: int | None = None,
    prompt: str = PROMPT,
    torchscript: bool = False,
) -> Exported:
    """Write a model with ``torch.export``, load and run the file, and keep it only if its logits are the engine's.

    The program takes token ids, int64[n_tokens], and gives float32[n_tokens, vocab_size] logits; it keeps nothing from
    run to run. Ternary weights are stored with two bits each, and are float32 while a layer computes.

    Parameters
    ----------
    source : ModelSource
        An open model.
    out_path : Path
        ``.pt2``.
    max_context : int, optional
        The most tokens of one run, at least 2; by default what the model was trained for.
    prompt : str
        What the two are compared on, of at least two tokens.
    torchscript : bool
        Write TorchScript instead, which PyTorch gives up, for programs that read nothing else.

    Raises
    ------
    BitNetError
        If the file cannot be written, or PyTorch's logits are not the engine's.
    """
    with kept_if_right(out_path) as made:
        context = checked_context(source, max_context)
        ids = prompt_ids(source, prompt, context)
        if ids.size < MIN_TOKENS:
            raise ParameterError(
                "the prompt of the check has one token; give a longer one, and a context of at least 2"
            )
        if torchscript:
            _save_script(Model(source, context), ids, made)
        else:
            _save(Model(source, context), ids, context, made)
        run = run_script if torchscript else run_torch
        size, runtime = made.stat().st_size, f"torch {torch.__version__}"
        return compared(out_path, size, runtime, engine_logits(source, ids), run(made, ids))


def run_torch(path: Path, ids: npt.NDArray[np.int64]) -> Floats:
    """Run an exported model over token ids int64[n_tokens]; return its logits, float32[n_tokens, vocab_size]."""
    with torch.inference_mode():
        logits: Floats = torch.export.load(str(path)).module()(torch.from_numpy(ids)).numpy()
    return logits


def run_script(path: Path, ids: npt.NDArray[np.int64]) -> Floats:
    """Do what :func:`run_torch` does with a TorchScript file."""
    with torch.inference_mode(), _deprecation_known():
        logits: Floats = torch.jit.load(str(path))(torch.from_numpy(ids)).numpy()
    return logits


def _save(model: "Model", ids: npt.NDArray[np.int64], context: int, path: Path) -> None:
    n_tokens = torch.export.Dim("n_tokens", min=MIN_TOKENS, max=context) if context > MIN_TOKENS else None
    program = torch.export.export(
        model.eval(), (torch.from_numpy(ids),), dynamic_shapes={"ids": None if n_tokens is None else {0: n_tokens}}
    )
    torch.export.save(program, str(path))


def _save_script(model: "Model", ids: npt.NDArray[np.int64], path: Path) -> None:
    with torch.no_grad(), _deprecation_known():
        torch.jit.trace(model.eval(), (torch.from_numpy(ids),)).save(str(path))


@contextmanager
def _deprecation_known() -> Iterator[None]:
    """Keep back what PyTorch says about TorchScript: who asks for it knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


# ---- the model, in the arithmetic of backends/numpy/operators.py -----------------------------------------------------
class Model(nn.Module):
    """All layers, between the embedding and the head."""

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
    """Attention, then the feed-forward network, each added to what comes in."""

    def __init__(self, source: ModelSource, layer: int) -> None:
        super().__init__()
        self.config: ModelConfig = source.config
        roles = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        self.linears = nn.ModuleDict({role: Ternary(source, role, layer) for role in roles})
        norms = ("attn_norm", "ffn_norm", *(("attn_sub_norm", "ffn_sub_norm") if source.config.sub_norms else ()))
        self.norms = nn.ModuleDict({role: Norm(source, role, layer) for role in norms})

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Return float32[n_tokens, hidden_size]."""
        x = x + self.attention(x, cosines, sines)
        return x + self.feed_forward(x)

    def attention(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Let each position look at itself and those before it."""
        config, linears, n_tokens = self.config, self.linears, x.shape[0]
        h = self.norms["attn_norm"](x)
        group = config.n_heads // config.n_kv_heads
        query = rotated(linears["attn_q"](h).view(n_tokens, -1, config.head_dim), cosines, sines)
        key = rotated(linears["attn_k"](h).view(n_tokens, -1, config.head_dim), cosines, sines)
        value = linears["attn_v"](h).view(n_tokens, -1, config.head_dim)
        queries = query.view(n_tokens, config.n_kv_heads, group, config.head_dim).permute(1, 2, 0, 3)
        scores = queries @ key.permute(1, 2, 0).unsqueeze(1) * config.head_dim**-0.5
        places = torch.arange(n_tokens, device=x.device)
        scores = scores.masked_fill(places > places[:, None], float("-inf"))
        attended = scores.softmax(dim=-1) @ value.permute(1, 0, 2).unsqueeze(1)
        out = attended.permute(2, 0, 1, 3).reshape(n_tokens, -1)
        return linears["attn_output"](self.norms["attn_sub_norm"](out) if config.sub_norms else out)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Let each feature be gated by another."""
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
    """BitLinear: activations as whole numbers, sums of these with their signs, both units back."""

    def __init__(self, source: ModelSource, role: str, layer: int) -> None:
        super().__init__()
        weights, scale = linear_weights(source, role, layer)
        self.columns = weights.shape[1]
        self.register_buffer("packed", torch.from_numpy(pack_quarters(weights)))
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[n_tokens, rows]."""
        per_unit = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
        whole = (x * per_unit).round().clamp(-128, 127)
        codes = torch.stack([self.packed >> shift & 3 for shift in SHIFTS], dim=-1).flatten(1)
        sums = functional.linear(whole, codes[:, : self.columns].float() - 1)  # below 2**24: exact in float32
        return sums * (self.scale / per_unit)


def rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim / 2) of float32[n_tokens, n_heads, head_dim] by their position's angles."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def pack_quarters(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack ternary weights int8[rows, columns] four to a byte, from its lowest bits on: uint8[rows, bytes]."""
    rows, columns = weights.shape
    codes = np.ones((rows, -(-columns // 4) * 4), np.uint8)
    codes[:, :columns] = weights + 1
    quarters = codes.reshape(rows, -1, 4)
    packed = np.zeros(quarters.shape[:2], np.uint8)
    for place, shift in enumerate(SHIFTS):
        packed |= quarters[:, :, place] << shift
    return packed


def _stored(source: ModelSource, role: str) -> Tensor:
    """Return the embedding or the head in the precision that it is stored in, or in float32 if that is int8."""
    matrix = source.matrix(role)
    if matrix.values.dtype == np.int16:
        return torch.from_numpy(matrix.values.copy()).view(torch.bfloat16)
    if matrix.values.dtype == np.uint16:
        return torch.from_numpy(matrix.values.view(np.float16).copy())
    return torch.from_numpy(float_matrix(matrix).copy())

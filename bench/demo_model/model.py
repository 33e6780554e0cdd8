"""The decoder as it is trained: float32 master weights, ternary products, the graph of BitNetForCausalLM."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.demo_model.quantization import TernaryProduct


@dataclass(frozen=True)
class ModelShape:
    """Hyper-parameters; the defaults are the embedded model's."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2
    max_seq_len: int = 512
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.04

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.n_heads

    @property
    def residual_std(self) -> float:
        """Spread of the first weights of projections that write to the residual stream: smaller with depth."""
        return self.initializer_range / math.sqrt(2 * self.n_layers)


class BitLinear(nn.Linear):
    """A linear layer without bias whose weights act as -1, 0 or 1 times one scale."""

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        super().__init__(inputs, outputs, bias=False)
        nn.init.normal_(self.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32[..., inputs] to float32[..., outputs]."""
        return TernaryProduct.apply(x, self.weight)


class Rotary(nn.Module):
    """Rotary position embedding over the half-split pairs (i, i + head_dim / 2)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angles = torch.outer(torch.arange(shape.max_seq_len).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate float32[batch, heads, tokens, head_dim] by each token's position."""
        tokens = x.shape[-2]
        first, second = x.chunk(2, dim=-1)
        return x * self.cos[:tokens] + torch.cat((-second, first), dim=-1) * self.sin[:tokens]


class Attention(nn.Module):
    """Causal grouped-query attention with a norm before its output projection."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.rotary = Rotary(shape)
        kv_size = shape.n_kv_heads * shape.head_dim
        self.q_proj = BitLinear(shape.hidden_size, shape.hidden_size, shape.initializer_range)
        self.k_proj = BitLinear(shape.hidden_size, kv_size, shape.initializer_range)
        self.v_proj = BitLinear(shape.hidden_size, kv_size, shape.initializer_range)
        self.o_proj = BitLinear(shape.hidden_size, shape.hidden_size, shape.residual_std)
        self.attn_sub_norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32[batch, tokens, hidden_size] to the same shape."""
        q = self.rotary(self._heads(self.q_proj(x)))
        k = self.rotary(self._heads(self.k_proj(x)))
        v = self._heads(self.v_proj(x))
        q, k, v = (part.to(torch.bfloat16) for part in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(self.attn_sub_norm(mixed.transpose(1, 2).flatten(2).float()))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """The squared-ReLU gated feed-forward layer with a norm before its last projection."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = BitLinear(shape.hidden_size, shape.intermediate_size, shape.initializer_range)
        self.up_proj = BitLinear(shape.hidden_size, shape.intermediate_size, shape.initializer_range)
        self.down_proj = BitLinear(shape.intermediate_size, shape.hidden_size, shape.residual_std)
        self.ffn_sub_norm = nn.RMSNorm(shape.intermediate_size, shape.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32[batch, tokens, hidden_size] to the same shape."""
        gated = functional.relu(self.gate_proj(x)).square() * self.up_proj(x)
        return self.down_proj(self.ffn_sub_norm(gated))


class Layer(nn.Module):
    """Attention, then feed-forward, each added to the residual stream."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32[batch, tokens, hidden_size] to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class BitNet(nn.Module):
    """The whole decoder; its parameter names are those of the Hugging Face checkpoint, less the prefix ``model.``."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=shape.initializer_range)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.n_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Map int64[batch, tokens] to logits, float32[batch, tokens, vocab_size], through the tied embedding."""
        x = self.embed_tokens(token_ids)
        for layer in self.layers:
            x = layer(x)
        head = self.embed_tokens.weight.to(torch.bfloat16)
        return functional.linear(self.norm(x).to(torch.bfloat16), head).float()

    def matrices(self) -> list[nn.Parameter]:
        """Return the master weights of all ternary layers."""
        return [module.weight for module in self.modules() if isinstance(module, BitLinear)]

    def other_parameters(self) -> list[nn.Parameter]:
        """Return what stays in high precision: the embedding and the norms."""
        return [module.weight for module in self.modules() if isinstance(module, nn.Embedding | nn.RMSNorm)]

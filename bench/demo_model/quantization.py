"""BitNet b1.58's two quantizers and the product that trains through them."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional

SMALLEST_SCALE = 1e-5


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each token to int8 by its largest magnitude.

    Parameters
    ----------
    x : float32[..., features]

    Returns
    -------
    codes : bfloat16[..., features]
        Whole numbers in -128..127, which bfloat16 holds exactly.
    step : float32[..., 1]
        What one unit of a code is worth.
    """
    scale = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE)
    return (x * scale).round().clamp(-128, 127).to(torch.bfloat16), 1.0 / scale


def quantize_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a matrix to -1, 0 and 1 by its mean magnitude.

    Parameters
    ----------
    weight : float32[outputs, inputs]

    Returns
    -------
    codes : bfloat16[outputs, inputs]
    scale : float32[]

    References
    ----------
    Ma et al., "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits", 2024, equations 1-3.
    """
    scale = weight.abs().mean().clamp(min=SMALLEST_SCALE)
    return (weight / scale).round().clamp(-1, 1).to(torch.bfloat16), scale


class TernaryProduct(torch.autograd.Function):
    """``quantized(x) @ quantized(weight).T``, whose gradients pass straight through both quantizers."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        """Return float32[..., outputs] and keep the codes: they are half the size of what they stand for."""
        codes, step = quantize_activations(x)
        ternary, scale = quantize_weights(weight)
        ctx.save_for_backward(codes, step, ternary, scale)
        return functional.linear(codes, ternary).float() * (step * scale)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Differentiate as if both quantizers were the identity."""
        codes, step, ternary, scale = ctx.saved_tensors
        grad_x = (grad * scale).to(torch.bfloat16) @ ternary
        grad_weight = (grad * step).to(torch.bfloat16).flatten(0, -2).T @ codes.flatten(0, -2)
        return grad_x.float(), grad_weight.float()

"""Norm, steering, activation and convolution as one step that keeps only its input for the way back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, dropout, group_norm, silu

EPS = 1e-5


class NormConv(nn.Module):
    """W * σ(norm(x) (1 + a) + b): group normalisation over about 16 channels a group, SiLU, a 3×3 convolution.

    Only x is kept for the backward pass, which works the cheap part out again; a library of separate layers keeps the
    normalised, the steered and the activated image besides, and moves them through memory.

    Arguments:
        inputs, width: channels in and out.
        dropout: probability of zeroing an activated value in training.
        reach: side of the convolution's square, odd.
    """

    def __init__(self, inputs: int, width: int, dropout: float = 0.0, reach: int = 3) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups_of(inputs), inputs, EPS)
        self.conv = nn.Conv2d(inputs, width, reach, padding=reach // 2)
        self.dropout = dropout

    def forward(self, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """x (B, inputs, H, W); a and b (B, inputs, 1, 1), together or not at all → (B, width, H, W)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        tensors = (x, self.norm.weight, self.norm.bias, self.conv.weight, self.conv.bias)
        steering = () if a is None or b is None else (a.to(x), b.to(x))
        if self.dropout and self.training:
            return plain(*tensors, *steering, drop=self.dropout)
        return _Fused.apply(*tensors, *steering)


def groups_of(width: int) -> int:
    """Groups of about 16 channels."""
    return math.gcd(width, max(1, width // 16))


def plain(
    x: Tensor, gain: Tensor, bias: Tensor, weight: Tensor, offset: Tensor, *steering: Tensor, drop: float = 0.0
) -> Tensor:
    """The same from torch's own layers."""
    h = group_norm(x, groups_of(x.shape[1]), gain, bias, EPS)
    if steering:
        h = torch.addcmul(steering[1], h, 1 + steering[0])
    return conv2d(dropout(silu(h), drop), weight.to(x.dtype), offset.to(x.dtype), padding=weight.shape[-1] // 2)


class _Fused(torch.autograd.Function):
    """`plain` without dropout."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, gain: Tensor, bias: Tensor, weight: Tensor, offset: Tensor, *steering: Tensor
    ) -> Tensor:
        return plain(x, gain, bias, weight, offset, *steering)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():  # a derivative of this derivative is asked for
            return torch.func.vjp(plain, *ctx.saved_tensors)[1](grad)
        x, gain, bias, weight, offset, *steering = ctx.saved_tensors
        x, grad = (v.contiguous(memory_format=torch.channels_last) for v in (x, grad))
        n, c, *size = x.shape
        h, mean, scale = torch.native_group_norm(x, gain, bias, n, c, math.prod(size), groups_of(c), EPS)
        steered = torch.addcmul(steering[1], h, 1 + steering[0]) if steering else h
        pad = [weight.shape[-1] // 2] * 2
        grad, d_weight, d_offset = torch.ops.aten.convolution_backward(
            grad, silu(steered), weight.to(x.dtype), list(offset.shape), [1, 1], pad, [1, 1], False, [0, 0], 1, [True] * 3
        )
        torch.ops.aten.silu_backward.grad_input(grad, steered, grad_input=grad)
        d_steering = []
        if steering:
            d_steering = [v.sum((2, 3), keepdim=True) for v in (h.mul_(grad), grad)]
            grad.mul_(1 + steering[0])
        d_x, d_gain, d_bias = torch.ops.aten.native_group_norm_backward(
            grad, x, mean, scale, gain, n, c, math.prod(size), groups_of(c), [True] * 3
        )
        return d_x, d_gain, d_bias, d_weight.to(weight.dtype), d_offset.to(offset.dtype), *d_steering

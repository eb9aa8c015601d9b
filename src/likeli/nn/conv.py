"""Residual convolutional encoders and decoders for images of any size."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import conv2d, group_norm, silu

from likeli.errors import require
from likeli.nn.ladder import ConvResidual
from likeli.nn.mlp import ByteDropout


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of (H, W) or (C, H, W).

    Raises:
        InputError: not an image.
    """
    require(len(shape) in (2, 3), "network", "mlp for data that are not images", "conv")
    return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]


def stage_sizes(shape: tuple[int, ...], stages: int) -> list[tuple[int, int]]:
    """Sizes of the image after each halving (rounded up), the whole image first."""
    _, height, width = image_shape(shape)
    return [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in range(stages + 1)]


def usual_stages(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Channels of as many stages as halve an image to about 4 cells a side: 32, 64, 128, 128, …"""
    side = min(image_shape(shape)[1:])
    return tuple(min(32 * 2**i, 128) for i in range(max(1, round(math.log2(side / 4)))))


class ConvEncoder(nn.Module):
    """An image and a row of features → (B, outputs): a residual block and a halving a stage, then one linear map.

    Arguments:
        shape: (H, W) or (C, H, W).
        given: features of the condition, spread over the image as constant planes.
        outputs: features out.
        hidden: channels of each stage.
        dropout: probability of zeroing a hidden channel in training.
    """

    def __init__(self, shape: tuple[int, ...], given: int, outputs: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.shape = image_shape(shape)
        widths = [hidden[0], *hidden]
        self.stem = nn.Conv2d(self.shape[0] + given, widths[0], 3, padding=1)
        self.stages = nn.Sequential(
            *(nn.Sequential(ConvResidual(a, dropout), nn.Conv2d(a, b, 3, stride=2, padding=1)) for a, b in pairwise(widths))
        )
        height, width = stage_sizes(shape, len(hidden))[-1]
        self.out = nn.Linear(widths[-1] * height * width, outputs)

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        """u (B, *shape), c (B, given) → (B, outputs)."""
        u = u.reshape(len(u), *self.shape)
        planes = c[:, :, None, None].expand(-1, -1, *self.shape[1:])
        return self.out(F.silu(self.stages(self.stem(torch.cat([u, planes], 1)))).flatten(1))


class ConvDecoder(nn.Module):
    """(B, inputs) → `channels` numbers for each cell of an image: the mirror image of `ConvEncoder`.

    Arguments:
        inputs: features in.
        shape: (H, W) or (C, H, W).
        channels: numbers for each cell.
        hidden: channels of each stage, the coarsest first.
        dropout: probability of zeroing a hidden channel in training.
    """

    def __init__(self, inputs: int, shape: tuple[int, ...], channels: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.sizes = stage_sizes(shape, len(hidden))[::-1]
        widths = [*hidden, hidden[-1]]
        self.start = (widths[0], *self.sizes[0])
        self.stem = nn.Linear(inputs, math.prod(self.start))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), ConvResidual(b, dropout)) for a, b in pairwise(widths)
        )
        self.out = nn.Conv2d(widths[-1], channels * image_shape(shape)[0], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, inputs) → (B, channels·C, H, W)."""
        h = self.stem(z).reshape(len(z), *self.start)
        for size, stage in zip(self.sizes[1:], self.stages):
            h = stage(F.interpolate(h, size=size, mode="nearest"))
        return self.out(F.silu(h))


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
        self.dropout = ByteDropout(dropout)

    def forward(self, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """x (B, inputs, H, W); a and b (B, inputs, 1, 1), together or not at all → (B, width, H, W)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        mask = self.dropout.mask(x) if self.training and self.dropout.p > 0 else None
        steering = () if a is None or b is None else (a.to(x), b.to(x))
        return _Fused.apply(x, mask, self.norm.weight, self.norm.bias, self.conv.weight, self.conv.bias, *steering)


def groups_of(width: int) -> int:
    """Groups of about 16 channels."""
    return math.gcd(width, max(1, width // 16))


def modulated(
    x: Tensor, mask: Tensor | None, gain: Tensor, bias: Tensor, weight: Tensor, offset: Tensor, *steering: Tensor
) -> Tensor:
    """The same from torch's own layers; a mask multiplies what is activated."""
    h = group_norm(x, groups_of(x.shape[1]), gain, bias, EPS)
    if steering:
        h = torch.addcmul(steering[1], h, 1 + steering[0])
    h = silu(h) if mask is None else silu(h) * mask
    return conv2d(h, weight.to(x.dtype), offset.to(x.dtype), padding=weight.shape[-1] // 2)


class _Fused(torch.autograd.Function):
    """`modulated`, whose mask has no gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, mask: Tensor | None, gain: Tensor, bias: Tensor, weight: Tensor, offset: Tensor, *steering: Tensor
    ) -> Tensor:
        return modulated(x, mask, gain, bias, weight, offset, *steering)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, *others = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of this derivative is asked for
            d_x, *d_others = torch.func.vjp(lambda x, *others: modulated(x, mask, *others), x, *others)[1](grad)
            return d_x, None, *d_others
        gain, bias, weight, offset, *steering = others
        x, grad = (v.contiguous(memory_format=torch.channels_last) for v in (x, grad))
        n, c, *size = x.shape
        h, mean, scale = torch.native_group_norm(x, gain, bias, n, c, math.prod(size), groups_of(c), EPS)
        steered = torch.addcmul(steering[1], h, 1 + steering[0]) if steering else h
        pad = [weight.shape[-1] // 2] * 2
        grad, d_weight, d_offset = torch.ops.aten.convolution_backward(
            grad, silu(steered) if mask is None else silu(steered) * mask, weight.to(x.dtype), list(offset.shape),
            [1, 1], pad, [1, 1], False, [0, 0], 1, [True] * 3,
        )  # fmt: skip
        if mask is not None:
            grad = grad.mul_(mask)
        torch.ops.aten.silu_backward.grad_input(grad, steered, grad_input=grad)
        d_steering = []
        if steering:
            d_steering = [v.sum((2, 3), keepdim=True) for v in (h.mul_(grad), grad)]
            grad.mul_(1 + steering[0])
        d_x, d_gain, d_bias = torch.ops.aten.native_group_norm_backward(
            grad, x, mean, scale, gain, n, c, math.prod(size), groups_of(c), [True] * 3
        )
        return d_x, None, d_gain, d_bias, d_weight.to(weight.dtype), d_offset.to(offset.dtype), *d_steering

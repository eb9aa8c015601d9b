"""Residual convolutional encoders and decoders for images of any size."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.errors import require
from likeli.nn.ladder import ConvResidual


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of (H, W) or (C, H, W).

    Raises:
        InputError: not an image.
    """
    require(len(shape) in (2, 3), "network", "mlp for data that are not images", "conv")
    return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]


def pyramid(shape: tuple[int, ...], stages: int) -> list[tuple[int, int]]:
    """Sizes of the image after each halving (rounded up), the whole image first."""
    _, height, width = image_shape(shape)
    return [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in range(stages + 1)]


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
        self.stages = nn.Sequential(*(
            nn.Sequential(ConvResidual(a, dropout), nn.Conv2d(a, b, 3, stride=2, padding=1))
            for a, b in pairwise(widths)
        ))
        height, width = pyramid(shape, len(hidden))[-1]
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
        self.sizes = pyramid(shape, len(hidden))[::-1]
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

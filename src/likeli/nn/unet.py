"""A U-Net for noisy images, laid out for a CPU as well: channels last, few large convolutions, wide attention heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from likeli.nn.conv import NormConv, groups_of
from likeli.nn.embedding import Caption, Conditioner, ConditionPlanes, NoiseLevel
from likeli.nn.transformer import CrossAttention, attend, heads_of
from likeli.spaces import Space

FEATURES = 64


class ResBlock(nn.Module):
    """x + conv σ(norm(conv σ(norm x)) (1 + a(e)) + b(e)), steered by the noise level e.

    Arguments:
        inputs, width: channels in and out.
        dropout: probability of zeroing a hidden channel value in training.

    Source: Dhariwal & Nichol (2021), arXiv:2105.05233, section 3.
    """

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.last = NormConv(inputs, width), NormConv(width, width, dropout)
        self.steer = nn.Linear(FEATURES, 2 * width)
        self.skip = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        for layer in (self.last.conv, self.steer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        a, b = self.steer(e)[:, :, None, None].chunk(2, 1)
        return self.last(self.first(x), a, b).add_(self.skip(x))


class Attention(nn.Module):
    """x + W softmax(q kᵀ/√d) v over the cells of an image.

    Arguments:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(groups_of(width), width), heads_of(width)
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x).flatten(2).mT
        return x + self.leave(attend(self.enter(rows), self.heads)).mT.reshape(x.shape)


class UNet(nn.Module):
    """(z (B, [C,] H, W), γ (B,), y) → (B, outputs, [C,] H, W), or z's shape for one output.

    Arguments:
        shape: one image, (H, W) or (C, H, W); padded inside to what halving needs.
        hidden: channels at each resolution, the finest first.
        outputs: numbers for each cell.
        condition: what y is, or None; an image, of whatever size, is seen beside z.
        dropout: probability of zeroing a hidden value in training.
        blocks: residual blocks at each resolution, on the way down.
        attention: largest number of cells at which a resolution attends, after its last block on either way.
        waves: angular frequencies k whose sin kz and cos kz are further input channels: they show the network differences of
            one grey level, on which a likelihood hangs (Kingma et al., 2021, arXiv:2107.00630, section 5.1).
    """

    waves: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: tuple[int, ...] = (32, 64, 64),
        outputs: int = 1,
        condition: Space | Conditioner | None = None,
        dropout: float = 0.0,
        blocks: int = 2,
        attention: int = 64,
        waves: tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        self.shape, self.outputs = shape, outputs
        colours = shape[0] if len(shape) == 3 else 1
        self.halvings = len(hidden) - 1
        cells = [math.prod(-(-s // 2**i) for s in shape[-2:]) for i in range(len(hidden))]
        self.planes = ConditionPlanes.of(condition, shape[-2:])
        self.level = NoiseLevel(FEATURES, condition if self.planes is None else None)
        words = 0 if self.level.condition.words is None else self.level.condition.words.width
        self.register_buffer("waves", torch.tensor(waves).reshape(-1, 1, 1, 1), persistent=False)
        inputs = colours * (1 + 2 * len(waves)) + (self.planes.channels if self.planes else 0)
        self.enter = nn.Conv2d(inputs, hidden[0], 3, padding=1)
        self.down, self.up, kept, width = nn.ModuleList(), nn.ModuleList(), [hidden[0]], hidden[0]
        for i, target in enumerate(hidden):
            for j in range(blocks):
                self.down.append(Stage(width, target, dropout, cells[i] <= attention and j == blocks - 1, words))
                kept.append(width := target)
            if i < self.halvings:
                self.down.append(Half(width))
                kept.append(width)
        self.middle = nn.ModuleList([Stage(width, width, dropout, True, words), Stage(width, width, dropout, False)])
        for i, target in reversed(list(enumerate(hidden))):
            for j in range(blocks + 1):
                self.up.append(Stage(width + kept.pop(), target, dropout, cells[i] <= attention and j == blocks, words))
                width = target
            if i:
                self.up.append(Double(width))
        reach = 3 if colours * outputs <= 64 else 1  # many outputs a cell would make the last convolution the largest
        self.leave = NormConv(width, colours * outputs, reach=reach)
        nn.init.zeros_(self.leave.conv.weight)
        nn.init.zeros_(self.leave.conv.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        said = self.level.condition.read(None if self.planes else y, z)
        e, (height, width) = self.level(gamma, said), self.shape[-2:]
        caption = said if isinstance(said, Caption) else None
        h = z.reshape(len(z), -1, height, width)
        if len(self.waves):
            angles = (h[:, None] * self.waves).flatten(1, 2)
            h = torch.cat([h, angles.sin(), angles.cos()], 1)
        if self.planes is not None:
            h = torch.cat([h, self.planes(y, h)], 1)
        block = 2**self.halvings
        h = pad(h, (0, -width % block, 0, -height % block)).contiguous(memory_format=torch.channels_last)
        kept = [h := self.enter(h)]
        for layer in self.down:
            kept.append(h := layer(h, e, caption))
        for layer in self.middle:
            h = layer(h, e, caption)
        for layer in self.up:
            h = layer(h if isinstance(layer, Double) else torch.cat([h, kept.pop()], 1), e, caption)
        h = self.leave(h)[:, :, :height, :width]
        colours = [self.shape[0]] if len(self.shape) == 3 else []
        return h.reshape(len(z), *([self.outputs] if self.outputs > 1 else []), *colours, height, width)


class Stage(nn.Module):
    """A residual block, and attention where asked for: to all cells, and to the words of a caption."""

    def __init__(self, inputs: int, width: int, dropout: float, attends: bool, words: int = 0) -> None:
        super().__init__()
        self.block = ResBlock(inputs, width, dropout)
        self.attention = Attention(width) if attends else nn.Identity()
        self.across = CrossAttention(width, words) if attends and words else None

    def forward(self, x: Tensor, e: Tensor, caption: Caption | None = None) -> Tensor:
        x = self.attention(self.block(x, e))
        if self.across is None or caption is None:
            return x
        return self.across(x.flatten(2).mT, caption).mT.reshape(x.shape)


class Half(nn.Module):
    """Half the resolution, by a convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, e: Tensor, caption: Caption | None = None) -> Tensor:
        return self.conv(x)


class Double(nn.Module):
    """Twice the resolution: nearest neighbour, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor, caption: Caption | None = None) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))

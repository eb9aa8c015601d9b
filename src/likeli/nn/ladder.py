"""The parts of a ladder: grids that features live on, maps between grids, and top-down levels that carry the state h.

A dense grid holds (B, width), an image's (B, width, rows, columns).  Grids may shrink towards the top, 7×7 → 4×4 → 2×2 → 1; one
that has shrunk to a single cell is dense.  Every residual branch ends in zeros, so that a ladder of any depth begins as a short
one and stays trainable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.errors import require
from likeli.nn.mlp import Residual


class ConvResidual(nn.Module):
    """h + W₂ * σ(W₁ * σ(h)), two 3×3 convolutions, the second zero at the start.

    Arguments:
        width: channels.
        dropout: probability of zeroing a hidden channel in training.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.branch = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Dropout2d(dropout), last)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class Grid:
    """Where the features of one level live, and the maps that fit there.

    Arguments:
        cells: rows and columns; () for a dense grid.
        width: features of a cell.
        dropout: of the residual blocks.
    """

    def __init__(self, cells: tuple[int, ...], width: int, dropout: float = 0.0) -> None:
        self.cells, self.width, self.dropout = cells, width, dropout

    @property
    def features(self) -> int:
        """Numbers that the whole grid holds."""
        return self.width * math.prod(self.cells)

    def linear(self, inputs: int, outputs: int, reach: int = 1) -> nn.Module:
        """A linear map of each cell's features and, with an odd `reach` above 1, of its neighbours'."""
        return nn.Conv2d(inputs, outputs, reach, padding=reach // 2) if self.cells else nn.Linear(inputs, outputs)

    def blocks(self, n: int) -> nn.Sequential:
        """n residual blocks."""
        block = ConvResidual if self.cells else Residual
        return nn.Sequential(*(block(self.width, self.dropout) for _ in range(n)))


class Patches:
    """An example as the finest grid: all of it in one dense row, or an image cut into squares of `patch` pixels a side.

    Arguments:
        network: mlp or conv.
        shape: of one example as `Space.to_model` gives it.
        patch: side of a square.

    Raises:
        InputError: not an image, or one that cannot be cut so.
    """

    def __init__(self, network: Literal["mlp", "conv"], shape: tuple[int, ...], patch: int) -> None:
        self.shape, self.patch = shape, patch
        self.cells: tuple[int, ...] = ()
        if network == "conv":
            require(len(shape) in (2, 3), "network", "mlp for data that are not images", network)
            rows, columns = shape[-2:]
            fits = patch >= 1 and rows % patch == 0 and columns % patch == 0
            require(fits, "patch", f"a divisor of {rows} and {columns}", patch)
            self.cells = (rows // patch, columns // patch)

    @property
    def inputs(self) -> int:
        """Numbers in one cell."""
        return math.prod(self.shape) // math.prod(self.cells)

    def fold(self, u: Tensor) -> Tensor:
        """(B, *shape) → (B, inputs, *cells)."""
        if not self.cells:
            return u.flatten(1)
        return F.pixel_unshuffle(u.reshape(len(u), -1, *self.shape[-2:]), self.patch)

    def unfold(self, h: Tensor, channels: int, shape: tuple[int, ...]) -> Tensor:
        """(B, channels·prod(shape)/prod(cells), *cells) → (B, channels, *shape), the inverse layout of `fold`."""
        h = F.pixel_shuffle(h, self.patch) if self.cells else h
        return h.reshape(len(h), channels, *shape)


def halved(cells: tuple[int, ...], times: int) -> tuple[int, ...]:
    """The size of a grid after so many halvings, each rounded up."""
    return tuple(math.ceil(n / 2**times) for n in cells)


def pyramid(cells: tuple[int, ...], widths: Sequence[int], halvings: Sequence[int], dropout: float) -> list[Grid]:
    """The grid of each level, level 1 first: `cells` halved (rounded up) so many times; a single cell is dense."""
    sizes = [halved(cells, k) for k in halvings]
    return [Grid(() if math.prod(size) == 1 else size, width, dropout) for size, width in zip(sizes, widths)]


def shrink(fine: Grid, coarse: Grid) -> nn.Module:
    """Features of a fine grid → of a coarser one: a stride of two a halving, or one dense map to a dense grid."""
    if fine.cells == coarse.cells:
        return nn.Identity() if fine.width == coarse.width else fine.linear(fine.width, coarse.width)
    if not coarse.cells:
        return nn.Sequential(nn.SiLU(), nn.Flatten(), nn.Linear(fine.features, coarse.width))
    steps = next(k for k in count(1) if halved(fine.cells, k) == coarse.cells)
    widths = [fine.width] + [coarse.width] * steps
    return nn.Sequential(*(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)))


def grow(coarse: Grid, fine: Grid) -> nn.Module:
    """Features of a coarse grid → of a finer one, the mirror image of `shrink`."""
    if fine.cells == coarse.cells:
        return nn.Identity() if fine.width == coarse.width else fine.linear(coarse.width, fine.width)
    if not coarse.cells:
        return nn.Sequential(nn.SiLU(), nn.Linear(coarse.width, fine.features), nn.Unflatten(1, (fine.width, *fine.cells)))
    return nn.Sequential(nn.Upsample(size=fine.cells, mode="nearest"), nn.Conv2d(coarse.width, fine.width, 3, padding=1))


class Level(nn.Module):
    """One top-down level: from the state h, the prior's parameters; from h and e, the evidence's; into h, its draw.

    Arguments:
        grid: where it lives.
        latent: latent features of a cell.
        blocks: residual blocks below the draw.
        depth: levels of the ladder; the draw's map into h is scaled by 1/√depth.
        joint: whether the evidence is read from h and e or from e alone.
        condition: features of y.
    """

    def __init__(self, grid: Grid, latent: int, blocks: int, depth: int, joint: bool, condition: int) -> None:
        super().__init__()
        width = grid.width
        self.prior = grid.linear(width, 2 * latent)
        head = grid.linear(width if blocks or not joint else 2 * width, 2 * latent)
        hidden = [grid.linear(2 * width, width), nn.SiLU()] if blocks and joint else []
        self.evidence = nn.Sequential(*hidden, head)
        self.inject, self.blocks = grid.linear(latent, width), grid.blocks(blocks)
        self.condition = nn.Linear(condition, width, bias=False) if condition else None
        with torch.no_grad():  # p near N(0, I) and q near p: means that tell examples apart a little, and p's own scale
            self.prior.weight.mul_(0.1)
            for value in (self.prior.bias, head.weight[latent:], head.bias):
                value.zero_()
            head.bias[latent:] += 0.0 if joint else 1.0  # evidence that multiplies p: wide, so that it says little
            self.inject.weight.mul_(1 / math.sqrt(depth))


def gaussian_parameters(out: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2L, …) → mean and standard deviation, each (B, L, …); log σ is kept inside ±7 smoothly."""
    out = out.float() if out.dtype in (torch.bfloat16, torch.float16) else out  # a KL of half-precision numbers is noise
    mean, log_std = out.chunk(2, 1)
    return mean, (7 * (log_std / 7).tanh()).exp()

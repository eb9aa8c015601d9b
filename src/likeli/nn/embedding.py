"""Conditions and times as network inputs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from likeli.spaces import Space


class Caption(NamedTuple):
    """Captions as features of their words (B, L, 64), and which of these are there (B, L): none where a caption is hidden."""

    features: Tensor
    seen: Tensor


class Conditioner(nn.Module):
    """y as a flat row of features: one-hot labels, class mixtures, standardised vectors; no features when there is no y.

    With `dropout` a network also learns p(x): training hides a row's y at times, and every cell of y has one more feature that
    is 1 where the cell is missing, which all together are the null token.  A missing cell is −1 of whole numbers, NaN of reals.

    Arguments:
        space: what y is, or None.
        dropout: probability with which training hides a row's y.

    `width` is the number of features.

    Source: Ho & Salimans (2022), arXiv:2207.12598, for the dropout.
    """

    def __init__(self, space: Space | None, dropout: float = 0.0) -> None:
        super().__init__()
        self.space, self.dropout = space, dropout if space is not None else 0.0
        self.words = None if space is None or space.alphabet is None else WordEncoder(space.shape[0], space.symbols)
        self.width = 0 if space is None else math.prod(space.model_shape) if self.words is None else self.words.width
        self.flags = 0 if not self.dropout or space is None else self.width if space.model_shape == space.shape else 1
        self.width += self.flags

    @classmethod
    def of(cls, condition: Space | Conditioner | None) -> Conditioner:
        """A conditioner as it is, or one of a space that hides nothing."""
        return condition if isinstance(condition, Conditioner) else cls(condition)

    def forward(self, y: Tensor | Caption | None, like: Tensor) -> Tensor:
        """(B, *condition.shape), or what was read of it → (B, width), with the dtype and device of `like`, of B rows."""
        if self.space is None or y is None:
            found = like.new_zeros(len(like), self.width)
            found[:, self.width - self.flags :] = 1
            return found
        y = self.read(y, like)
        if isinstance(y, Caption):  # a caption as the mean of its words
            there = y.seen.sum(1, keepdim=True)
            mean = (y.features * y.seen[..., None]).sum(1) / there.clamp(min=1)
            return torch.cat([mean, there.eq(0).to(mean)], 1) if self.flags else mean
        assert y is not None
        if not self.flags:
            return self.space.to_model(y, like.dtype).to(like.device).flatten(1)
        u = self.space.to_model(y if y.is_floating_point() else y.clamp(min=0), like.dtype).to(like.device)
        gone = u.isnan() if y.is_floating_point() else (y < 0).to(u.device).reshape(*y.shape, *[1] * (u.ndim - y.ndim))
        gone = gone.expand_as(u).flatten(1)
        if self.training:
            gone = gone | (torch.rand(len(gone), 1, device=gone.device) < self.dropout)
        flag = gone if self.flags > 1 else gone.all(1, keepdim=True)
        return torch.cat([u.flatten(1).masked_fill(gone, 0), flag.to(u)], 1)

    def read(self, y: Tensor | Caption | None, like: Tensor) -> Tensor | Caption | None:
        """The words of captions, of which training hides some at times; another y as it is."""
        if self.words is None or isinstance(y, Caption):
            return y
        assert self.space is not None
        if y is None:
            return Caption(like.new_zeros(len(like), 1, self.words.width), like.new_zeros(len(like), 1, dtype=torch.bool))
        y = y.to(like.device)
        over = y.eq(-1 if self.space.end is None else self.space.end)
        gone = (y < 0).all(1, keepdim=True) | over.all(1, keepdim=True)
        if self.training and self.dropout:
            gone = gone | (torch.rand(len(y), 1, device=y.device) < self.dropout)
        return Caption(self.words(y.clamp(min=0), over), ~(over | gone))


class WordEncoder(nn.Module):
    """A caption as a row of features for each word: the words in their places, and two layers of attention.

    Arguments:
        length: words at most.
        symbols: of the vocabulary, the end among them.

    Source: Vaswani et al. (2017), arXiv:1706.03762, with the norm before each layer.
    """

    width, heads, layers = 64, 4, 2

    def __init__(self, length: int, symbols: int) -> None:
        super().__init__()
        width = self.width
        self.embed, self.place = nn.Embedding(symbols, width), nn.Parameter(0.3 * torch.randn(length, width))
        self.enter = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(self.layers))
        self.leave = nn.ModuleList(nn.Linear(width, width) for _ in range(self.layers))
        self.inner = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(self.layers)
        )

    def forward(self, words: Tensor, ended: Tensor) -> Tensor:
        """(B, L) symbols, and which of them are behind the end, (B, L) → (B, L, 64)."""
        h, seen = self.embed(words) + self.place, ~ended
        mask = (seen | ended.all(1, keepdim=True))[:, None, None]  # a row without a word attends to what it has
        for enter, leave, inner in zip(self.enter, self.leave, self.inner):
            qkv = enter(nn.functional.layer_norm(h, h.shape[-1:])).unflatten(2, (3, self.heads, -1))
            q, k, v = qkv.movedim(2, 0).transpose(2, 3)
            h = h + leave(nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
            h = h + inner(h)
        return nn.functional.layer_norm(h, h.shape[-1:])


def null_of(y: Tensor) -> Tensor:
    """Rows like y in which every cell is missing: −1 of whole numbers, NaN of reals."""
    return torch.full_like(y, math.nan) if y.is_floating_point() else torch.full_like(y, -1, dtype=torch.long)


class ConditionPlanes(nn.Module):
    """A condition that is an image, such as a smaller or a grey one, as further planes of a network's input.

    It is brought to the network's size by repeating cells; a last plane is 1 where y is known, and 0 where it is missing.

    Arguments:
        given: what y is, (h, w) or (C, h, w), and how often training hides it.
        size: (H, W) of the network's image.
    """

    def __init__(self, given: Conditioner, size: tuple[int, ...]) -> None:
        super().__init__()
        assert given.space is not None
        self.space, self.dropout, self.size = given.space, given.dropout, tuple(size)
        self.channels = 1 + (given.space.shape[0] if len(given.space.shape) == 3 else 1)

    def forward(self, y: Tensor | None, like: Tensor) -> Tensor:
        """(B, *condition.shape) → (B, channels, H, W), with the dtype and device of `like`, whose first axis is B."""
        if y is None:
            return like.new_zeros(len(like), self.channels, *self.size)
        lost = y.isnan() if y.is_floating_point() else y < 0
        u = self.space.to_model(y.masked_fill(lost, 0), like.dtype).to(like.device)
        lost = lost.to(u.device)
        if self.training and self.dropout:
            lost = lost | (torch.rand(len(y), *[1] * (y.ndim - 1), device=u.device) < self.dropout)
        u, lost = (v.reshape(len(y), -1, *v.shape[-2:]) for v in (u.masked_fill(lost, 0), lost))
        planes = torch.cat([u, 1 - lost.any(1, keepdim=True).to(u)], 1)
        return nn.functional.interpolate(planes, self.size, mode="nearest-exact")

    @staticmethod
    def of(condition: Space | Conditioner | None, size: tuple[int, ...]) -> ConditionPlanes | None:
        """Planes where the condition is an image, else nothing."""
        given = Conditioner.of(condition)
        image = given.space is not None and len(given.space.shape) in (2, 3) and given.space.model_shape == given.space.shape
        return ConditionPlanes(given, size) if image else None


class Fourier(nn.Module):
    """cos and sin of t at `width`/2 geometric frequencies from 1 to `top`, (B,) → (B, width).

    Arguments:
        width: even.
        top: highest frequency.
    """

    def __init__(self, width: int, top: float = 1000.0) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, math.log(top), width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies.to(t)
        return torch.cat([angles.cos(), angles.sin()], 1)


class NoiseLevel(nn.Module):
    """γ and y as one row of features, the same network input for every schedule.

    Arguments:
        width: features out.
        condition: what y is and how it is heard, or None.
    """

    def __init__(self, width: int, condition: Space | Conditioner | None = None) -> None:
        super().__init__()
        waves = 2 * max(1, min(width, 64) // 2)
        self.fourier = Fourier(waves, top=100.0)
        self.condition = Conditioner.of(condition)
        self.level = nn.Linear(waves, width)
        self.given = nn.Linear(self.condition.width, width, bias=False) if self.condition.width else None
        if self.given is not None:  # a smaller start is not heard beside the level, and never learned
            nn.init.normal_(self.given.weight)
        self.out = nn.Linear(width, width)

    def forward(self, gamma: Tensor, y: Tensor | Caption | None = None) -> Tensor:
        """γ (B,), y (B, *condition.shape) or what was read of it → (B, width)."""
        h = self.level(self.fourier(gamma / 40))  # γ in ±20 turns the lowest frequency by ±½ and the highest by ±50
        if self.given is not None:
            h = h + self.given(self.condition(y, h))
        return nn.functional.silu(self.out(nn.functional.silu(h)))

"""Images of grey levels, binary ones among them, and their heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.errors import require
from likeli.random import Noise
from likeli.spaces.base import Space
from likeli.spaces.head import Categorical, MassCells, Observation, open_uniform

FEW_LEVELS = 8  # up to here one free number a level is cheaper to learn than a shape
CELLS_AT_ONCE = 1 << 20  # numbers of cells times levels whose masses are in memory together
INITIAL_SCALE = 0.25  # of a logistic at the start, in model units, where the grey levels span [−1, 1]
LINEAR_FROM = 40.0  # log(1 + eˡ) is l from here on, to the last bit of a double
NARROWEST_BINS = -5.0  # log of a logistic's scale in bins: a bin then holds all its mass but e^−74


class Pixels(Space):
    """Images of integers 0 … levels−1: the bin of x is [x, x+1)·2/levels − 1, its centre is what a network sees.

    Arguments:
        shape: (H, W) or (C, H, W), or any shape.
        levels: number of grey levels.
    """

    measure = "mass"
    obstacle = ""
    spacing: float
    rank = 2
    blank = -1

    @classmethod
    def recognise(cls, x: Tensor) -> str | None:
        """Whole numbers from 0 in the shape of pictures."""
        return "" if not x.is_floating_point() and x.ndim > 2 and bool((x >= 0).all()) else None

    def __init__(self, shape: tuple[int, ...], levels: int = 256) -> None:
        super().__init__(shape)
        self.levels = self.symbols = levels
        require(levels >= 2, "levels", "at least 2", levels)
        self.spacing = 2 / levels  # the width of a bin

    def codebook(self, like: Tensor) -> Tensor:
        return self.to_model(torch.arange(self.levels, device=like.device), like.dtype)

    def head(self) -> Observation:
        few = Categorical() if self.levels <= FEW_LEVELS else DiscretisedLogistic()
        return (Bernoulli() if self.levels == 2 else few).on(self)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        x = self._whole(x, self.levels - 1, what, f"whole numbers from 0 to {self.levels - 1}")
        return x.to(torch.uint8) if self.levels <= 256 else x

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return x.to(dtype) * self.spacing + (self.spacing / 2 - 1)

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        edge = 2 * torch.finfo(dtype).eps * self.levels  # rounding must not carry a draw into the next bin
        n = noise.uniform(*self.shape).to(dtype).clamp(min(edge, 0.5), max(1 - edge, 0.5))
        u = (x.to(dtype) + n).mul_(self.spacing).sub_(1)
        return u, u.new_full((len(x),), self.dimensions * math.log(self.spacing))

    def from_model(self, u: Tensor) -> Tensor:
        return ((u + 1) / self.spacing).floor().clamp(0, self.levels - 1).long()


class Binary(Pixels):
    """Cells of 0 or 1."""

    rank = 1

    @classmethod
    def recognise(cls, x: Tensor) -> str | None:
        """Nothing but 0 and 1."""
        if not bool(((x == 0) | (x == 1)).all()):
            return None
        told = "all values are 0 or 1, so they were taken as binary; kind='real' takes them as reals"
        return told if x.is_floating_point() else ""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape, levels=2)


class Bernoulli(Observation):
    """Cells of 0 or 1: log p(x) = log σ((2x − 1)·l), l the decoder's logit."""

    spaces = (Pixels,)

    @property
    def channels(self) -> int:
        return 1

    def bind(self) -> None:
        require(self.space.levels == 2, "head", f"one for {self.space.levels} levels", "bernoulli, which is for 2")

    def read(self, out: Tensor) -> BernoulliCells:
        return BernoulliCells(out)


class BernoulliCells(MassCells):
    """Independent cells of 0 or 1 with logits `out` (B, 1, *shape)."""

    def cell_log_prob(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x.to(self.out.dtype).mul(2).sub_(1) * self.out[:, 0])

    def log_prob(self, x: Tensor) -> Tensor:
        total: Tensor = _BernoulliSum.apply(self.out.reshape(len(x), -1), x.reshape(len(x), -1))
        return total

    @property
    def mean(self) -> Tensor:
        return self.out[:, 0].sigmoid()

    def log_pmf(self) -> Tensor:
        logits = self.out[:, 0]
        return F.logsigmoid(torch.stack([-logits, logits], -1))

    def draw(self, noise: Noise) -> Tensor:
        return (noise.uniform(*self.event_shape).to(self.out) < self.mean).long()


class _BernoulliSum(torch.autograd.Function):
    """−Σ_i log(1 + exp (1 − 2x_i)l_i) with derivative x_i − σ(l_i), (B, n) → (B,): few passes over a decoder's output."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        against = torch.addcmul(logits, logits, x, value=-2)
        return -F.softplus(against, threshold=LINEAR_FROM).sum(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        return (logits.sigmoid() - x.to(torch.uint8)) * -g[:, None], None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        logits, x = ctx.saved_tensors
        return torch.linalg.vecdot(tangent, x.to(torch.uint8) - logits.sigmoid())


class DiscretisedLogistic(Observation):
    """Grey levels as a mixture of logistics cut into bins; the first and last bins reach to infinity, so Σ_k P(k) = 1.

        P(k) = Σ_c π_c [σ((b_k − μ_c)/s_c) − σ((a_k − μ_c)/s_c)],   [a_k, b_k) the bin of level k,  a_0 = −∞,  b_last = ∞

    Arguments:
        components: logistics in the mixture of each cell.

    Source: Salimans et al. (2017), arXiv:1701.05517, without the autoregression over colours.
    """

    spaces = (Pixels,)

    def __init__(self, components: int = 2) -> None:
        super().__init__()
        self.components = components
        require(components >= 1, "components", "at least 1", components)

    @property
    def channels(self) -> int:
        return 3 * self.components if self.components > 1 else 2

    def read(self, out: Tensor) -> LogisticCells:
        return LogisticCells(out, self.space.levels, self.components)


class LogisticCells(MassCells):
    """Independent mixtures of discretised logistics.

    Each component has a location, in model units (the levels span [−1, 1]) and starting from its own place in that range, the
    log of its scale, and, where there are several, a weight's logit.

    Arguments:
        out: (B, channels, *shape).
        levels: number of grey levels.
        components: logistics in each cell.
    """

    def __init__(self, out: Tensor, levels: int, components: int) -> None:
        super().__init__(out)
        self.levels, self.components, self.width = levels, components, 2 / levels
        parts = out.unflatten(1, (-1, components)).unbind(1)
        self.location = parts[0] + component_places(components, parts[0])
        self.log_bins = (parts[1] + math.log(INITIAL_SCALE / self.width)).clamp(min=NARROWEST_BINS)  # log of the scale in bins
        self.log_weight = parts[2].log_softmax(1) if components > 1 else None

    def cell_log_prob(self, x: Tensor) -> Tensor:
        return self._log_mass(x.unsqueeze(1), self.location, self.log_bins, self.log_weight)

    def log_pmf(self) -> Tensor:
        levels = torch.arange(self.levels, device=self.out.device)
        location, log_bins = self.location[..., None], self.log_bins[..., None]
        log_weight = None if self.log_weight is None else self.log_weight[..., None]
        several = levels.split(max(1, CELLS_AT_ONCE // self.out.numel()))
        return torch.cat([self._log_mass(k, location, log_bins, log_weight) for k in several], -1)

    def _log_mass(self, x: Tensor, location: Tensor, log_bins: Tensor, log_weight: Tensor | None) -> Tensor:
        a = x.to(self.out.dtype).mul(self.width).sub_(1)  # the bin's lower edge
        inverse = (-log_bins).exp()  # bin width over scale
        m = (a - location) * (inverse / self.width)
        mass = log_bin_mass(m, inverse, bottom=x == 0, top=x == self.levels - 1)
        return mass[:, 0] if log_weight is None else (mass + log_weight).logsumexp(1)

    @property
    def mean(self) -> Tensor:
        symbols = torch.arange(self.levels, device=self.out.device).to(self.out)
        return self.log_pmf().exp() @ symbols

    def draw(self, noise: Noise) -> Tensor:
        value = draw_logistic(noise, self.location, self.log_bins.exp() * self.width, self.log_weight)
        return ((value + 1) / self.width).floor().clamp(0, self.levels - 1).long()


def component_places(components: int, like: Tensor) -> Tensor:
    """Where each component starts, evenly over [−1, 1]: (components, 1, …, 1), to add to `like` (B, components, *shape)."""
    places = (torch.arange(components, device=like.device, dtype=like.dtype) * 2 + 1) / components - 1
    return places.reshape(-1, *[1] * (like.ndim - 2))


def log_bin_mass(m: Tensor, width: Tensor, bottom: Tensor | None = None, top: Tensor | None = None) -> Tensor:
    """log [σ(m + w) − σ(m)], the mass of a standard logistic between m and m + w.

    From σ(p) − σ(m) = σ(p)·σ(−m)·(1 − e^{m−p}), so that no nearly equal numbers are subtracted.

    Arguments:
        m: lower edges.
        width: w > 0.
        bottom, top: where the lower edge is −∞, and where the upper one is +∞.
    """
    upper, lower, within = F.logsigmoid(m + width), F.logsigmoid(-m), (-width).expm1().neg().log()
    if bottom is None or top is None:
        return upper + lower + within
    return upper.masked_fill(top, 0) + lower.masked_fill(bottom, 0) + within.masked_fill(top | bottom, 0)


def draw_logistic(noise: Noise, location: Tensor, scale: Tensor, log_weight: Tensor | None) -> Tensor:
    """One draw of a mixture of logistics for each cell.

    Arguments:
        location, scale: (B, components, *shape).
        log_weight: the same shape, or None for one component.
    """
    shape = location.shape[2:]
    if log_weight is not None:
        cdf = log_weight.double().exp().cumsum(1)
        u = noise.uniform(*shape).to(cdf)[:, None] * cdf[:, -1:]
        chosen = (cdf <= u).sum(1, keepdim=True).clamp(max=location.shape[1] - 1)
        location, scale = location.gather(1, chosen), scale.gather(1, chosen)
    return location[:, 0] + scale[:, 0] * open_uniform(noise, *shape).to(location.device).logit()

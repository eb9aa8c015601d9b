"""A noise schedule that training shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from likeli.diffusion.schedule import VariancePreserving, check_ends
from likeli.errors import Unsupported, require
from likeli.processes import mean_over_batch

LEAST = 0.1  # weight of the straight part of m, which keeps its slope above zero


class Monotone(VariancePreserving):
    """γ(t) = γ₀ + (γ₁ − γ₀) m(t), with m a network of positive weights pinned to m(0) = 0 and m(1) = 1.

    m(t) ∝ t/10 + Σ_j w_j [sigmoid(a_j t + b_j) − sigmoid(b_j)].  The continuous-time bound depends on the two ends alone; the
    shape between them sets the variance of its estimate, and `variance_loss` trains it for that.  A bound over finitely many
    steps does depend on the shape, and can train it itself.

    Arguments:
        gamma_min, gamma_max: γ at t = 0 and t = 1.
        learn_ends: whether training moves the ends as well.
        free: whether gradients of γ reach the shape.
        width: number of logistic steps j.

    Source: Kingma et al. (2021), arXiv:2107.00630, appendix H.
    """

    def __init__(
        self,
        gamma_min: float = -13.3,
        gamma_max: float = 5.0,
        learn_ends: bool = False,
        free: bool = False,
        width: int = 32,
    ) -> None:
        super().__init__()
        self.gamma_min, self.gamma_max = check_ends(gamma_min, gamma_max)
        require(width >= 1, "width", "at least 1", width)
        self.learn_ends, self.free, self.width = learn_ends, free, width
        ends = torch.tensor([gamma_min, math.log(gamma_max - gamma_min)])
        self.ends = nn.Parameter(ends) if learn_ends else None
        centres = (torch.arange(width) + 0.5) / width
        steepness = torch.full((width,), 2.0 * width ** 0.5 + 4)
        self.slope = nn.Parameter(steepness.expm1().log())
        self.offset = nn.Parameter(-steepness * centres)
        self.weight = nn.Parameter(torch.full((width,), math.log(math.expm1(0.1 / width))))

    def shape(self, t: Tensor, free: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """m(t) in [0, 1] and its first two derivatives; gradients reach m's parameters if `free`."""
        slope, offset, weight = (p.to(t) if free else p.detach().to(t) for p in (self.slope, self.offset, self.weight))
        slope, weight = softplus(slope), softplus(weight)
        step, below, above = ((s[..., None] * slope + offset).sigmoid() for s in (t, t.new_zeros(()), t.new_ones(())))
        top = LEAST + (weight * (above - below)).sum()
        bell = weight * slope * step * (1 - step)
        m = LEAST * t + (weight * (step - below)).sum(-1)
        return m / top, (LEAST + bell.sum(-1)) / top, (bell * slope * (1 - 2 * step)).sum(-1) / top

    def gamma(self, t: Tensor) -> Tensor:
        first, span = self._ends(t)
        return first + span * self.shape(t, self.free)[0]

    def rate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (first, span), (m, slope, _) = self._ends(t), self.shape(t, self.free)
        return first + span * m, span * slope

    def time_of(self, gamma: Tensor) -> Tensor:
        """The inverse of `gamma` by Newton's steps, halving wherever one leaves its bracket; beyond the ends, the ends."""
        gamma = torch.as_tensor(gamma, dtype=torch.float64)
        low, high = torch.zeros_like(gamma), torch.ones_like(gamma)
        first, span = self._ends(gamma)
        with torch.no_grad():
            t = ((gamma - first) / span).clamp(0, 1)
            gamma = first + span * ((gamma - first) / span).clamp(0, 1)
            for _ in range(64):
                value, slope = self.rate(t)
                low, high = torch.where(value < gamma, t, low), torch.where(value < gamma, high, t)
                new = t + (gamma - value) / slope
                t, last = torch.where((new < low) | (new > high), (low + high) / 2, new), t
                if not t.numel() or (t - last).abs().max() < 1e-13:
                    break
        return t

    def variance_loss(self, t: Tensor, error: Tensor) -> Tensor:
        """Gradients that lower J = E_t[(m'(t) e)²], with e = ‖ε − ε̂‖² measured at t; the value itself is always zero, (B,).

        Moving m also moves the γ at which e is measured; integrated by parts, with m pinned at both ends,
        δJ = ∫ e² (m' δm' − m'' δm) dt, in which no derivative of the network is left.  Scaled to be the gradient of log J.

        Arguments:
            t: (B,) times.
            error: (B,) e at those times.
        """
        m, first, second = self.shape(t)
        weight = error.detach().to(t).square()
        least = torch.finfo(t.dtype).tiny  # a fresh network may err by nothing
        scale = mean_over_batch(weight * first.detach().square()).clamp(min=least)
        value = weight / scale * (first * first.detach() - m * second.detach())
        return (value - value.detach()).to(error)

    def _ends(self, t: Tensor) -> tuple[Tensor | float, Tensor | float]:
        if self.ends is None:
            return self.gamma_min, self.gamma_max - self.gamma_min
        first, log_range = self.ends.to(t)
        return first, log_range.exp()


class MonotoneByCell(VariancePreserving):
    """γ_i(t) = γ₀ + (γ₁ − γ₀) m_i(t): a path of its own for each cell i between common ends, each shaped as in `Monotone`.

    The bound's ½ Σ_i ∫ γ_i'(t) E(ε_i − ε̂_i)² dt is then an integral along a path in as many dimensions as there are cells.  For
    the best denoiser it is I(x; z_0) − I(x; z_1) on every path; for a network it depends on the path, and training shapes it.

    Arguments:
        gamma_min, gamma_max: γ at t = 0 and t = 1, for all cells.
        cells: shape of one example in model units.
        width: number of logistic steps.

    Source: Sahoo et al. (2023), arXiv:2312.13236.
    """

    def __init__(
        self, gamma_min: float = -13.3, gamma_max: float = 5.0, cells: tuple[int, ...] = (1,), width: int = 8
    ) -> None:
        super().__init__()
        self.gamma_min, self.gamma_max = check_ends(gamma_min, gamma_max)
        require(len(cells) >= 1 and min(cells) >= 1, "cells", "one or more lengths of at least 1", cells)
        require(width >= 1, "width", "at least 1", width)
        self.cells, self.width = cells, width
        self.weight = nn.Parameter(torch.full((*cells, width), math.log(math.expm1(0.1 / width))))

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """m (*t.shape, *cells) in [0, 1] and dm/dt."""
        steep = 2.0 * self.width**0.5 + 4
        centres = (torch.arange(self.width, dtype=t.dtype, device=t.device) + 0.5) / self.width
        ends = t.new_tensor([0.0, 1.0])
        step, (below, above) = ((steep * (s[..., None] - centres)).sigmoid() for s in (t, ends))
        weight = softplus(self.weight.to(t))
        top = LEAST + weight @ (above - below)
        place, slope = (torch.tensordot(v, weight, ([-1], [-1])) for v in (step - below, steep * step * (1 - step)))
        t = t.reshape(*t.shape, *[1] * len(self.cells))
        return (LEAST * t + place) / top, (LEAST + slope) / top

    def gamma(self, t: Tensor) -> Tensor:
        return self.gamma_min + (self.gamma_max - self.gamma_min) * self.shape(t)[0]

    def rate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        m, slope = self.shape(t)
        span = self.gamma_max - self.gamma_min
        return self.gamma_min + span * m, span * slope

    def drift(self, t: Tensor) -> Tensor:
        return -0.5 * self(t)[1].square() * self.rate(t)[1]

    def velocity(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha, sigma), rate = self(t), self.rate(t)[1]
        return -0.5 * alpha * sigma.square() * rate, 0.5 * sigma * alpha.square() * rate

    def time_of(self, gamma: Tensor) -> Tensor:
        """Refused: the cells reach a given γ at different times.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("noise levels by log SNR: each cell of this schedule has its own at every t; use grids even in time")

"""A noise schedule that training shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from likeli.diffusion.schedule import VariancePreserving, check_ends
from likeli.errors import require

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
        scale = (weight * first.detach().square()).mean()
        value = weight / scale * (first * first.detach() - m * second.detach())
        return (value - value.detach()).to(error)

    def _ends(self, t: Tensor) -> tuple[Tensor | float, Tensor | float]:
        if self.ends is None:
            return self.gamma_min, self.gamma_max - self.gamma_min
        first, log_range = self.ends.to(t)
        return first, log_range.exp()

"""A continuous density p(u) on any space that has a continuous form: exact on reals, a lower bound on the mass of integers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from likeli.core import GenerativeModel, Knows, LogLikelihood
from likeli.errors import Unsupported
from likeli.random import Ambient, Noise
from likeli.space import Space


class DensityModel(GenerativeModel):
    """log p(x) = log p_u(u(x)) + log|∂u/∂x|; on integers log P(x) ≥ E_n log p_u(u(x + n)) + log|∂u/∂x|, n ~ U[0,1)."""

    knows = Knows.EXACT

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        if space.obstacle:
            raise Unsupported(f"{space.obstacle}, which {self.kind()} needs; vae takes them")

    @abstractmethod
    def log_density(self, u: Tensor, y: Tensor | None = None) -> Tensor:
        """log p_u(u), (B, *shape) model units → (B,) nats."""

    @abstractmethod
    def draw_density(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """u ~ p_u, (noise.rows, *shape) in model units."""

    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """u ~ p_u mapped to the user's units."""
        return self.space.from_model(self.draw_density(noise, y))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) in nats, with one draw of the dequantisation noise where there is one."""
        u, log_det = self.space.continuous(x, Ambient(x), self.dtype)
        return -self.log_density(u, y) - log_det

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None, *, samples: int = 16) -> LogLikelihood:
        """Exact on reals; on integers the bound log (1/K) Σ_k p_u(u(x + n_k)), whose mean rises to log P(x) with K.

        Arguments:
            samples: K, draws of the dequantisation noise.
        """
        measure, dimensions = self.space.measure, self.space.dimensions
        if measure == "density":
            return LogLikelihood(-self.loss(x, y), Knows.EXACT, measure, dimensions=dimensions)
        value, stderr = log_mean_exp(-self.loss(x, y) for _ in range(samples))
        return LogLikelihood(value, Knows.LOWER_BOUND, measure, stderr, dimensions=dimensions)


def log_mean_exp(draws: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """log (1/K) Σ_k w_k and its delta-method standard error, sd(w)/(mean(w)·√K), from K tensors of log w of one shape.

    Draws are taken one at a time (mean and variance by Welford's update, rescaled when the largest weight so far is passed),
    so that memory does not grow with K.
    """
    top, mean, spread, k, dtype = torch.zeros(()), torch.zeros(()), torch.zeros(()), 0, torch.float32
    for log_w in draws:
        k, dtype = k + 1, log_w.dtype
        log_w = log_w.double().clamp(min=-1e300)
        if k == 1:
            top, mean, spread = log_w, torch.ones_like(log_w), torch.zeros_like(log_w)
            continue
        higher = torch.maximum(top, log_w)
        shrink = (top - higher).exp()
        w, mean, spread, top = (log_w - higher).exp(), mean * shrink, spread * shrink.square(), higher
        delta = w - mean
        mean = mean + delta / k
        spread = spread + delta * (w - mean)
    stderr = (spread / (k - 1) / k).sqrt() / mean if k > 1 else torch.full_like(mean, math.nan)
    value = top + mean.log()
    return value.masked_fill(value < -1e299, -math.inf).to(dtype), stderr.to(dtype)

"""Families of q(z|x) that an encoder can fill in: diagonal, full-covariance, inverse autoregressive flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F
from zuko.flows import MaskedAutoregressiveTransform

from likeli.probability.draw import diagonal_gaussian, draw
from likeli.random import Noise

PosteriorFamily = Literal["diagonal", "full", "flow"]
WIDEST = 7.0  # of log σ, either way


class Posterior(nn.Module, ABC):
    """What turns the encoder's numbers into q(z|x).

    Arguments:
        latent_dim: length of z.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Numbers that the encoder must give."""

    @abstractmethod
    def forward(self, h: Tensor) -> D.Distribution:
        """(B, inputs) → q with batch (B,) and event (latent_dim,)."""


class Diagonal(Posterior):
    """q(z|x) = N(μ, diag σ²), log σ clamped to ±7.

    Source: Kingma & Welling (2013), arXiv:1312.6114.
    """

    @property
    def inputs(self) -> int:
        return 2 * self.latent_dim

    def forward(self, h: Tensor) -> D.Independent:
        mean, log_std = h.chunk(2, 1)
        return diagonal_gaussian(mean, log_std.clamp(-WIDEST, WIDEST).exp())


class Full(Posterior):
    """q(z|x) = N(μ, LLᵀ), L lower triangular with a positive diagonal."""

    @property
    def inputs(self) -> int:
        return self.latent_dim * (self.latent_dim + 3) // 2

    def forward(self, h: Tensor) -> D.MultivariateNormal:
        d = self.latent_dim
        mean, log_diagonal, below = h.split([d, d, d * (d - 1) // 2], 1)
        rows, columns = torch.tril_indices(d, d, -1, device=h.device)
        tril = log_diagonal.clamp(-WIDEST, WIDEST).exp().diag_embed()
        tril = tril.index_put((torch.arange(len(h), device=h.device)[:, None], rows, columns), below)
        return D.MultivariateNormal(mean, scale_tril=tril, validate_args=False)


class FlowPosterior(Posterior):
    """z = f_T ∘ … ∘ f_1(ε), ε ~ N(μ, diag σ²), each f_t an affine autoregressive map that also reads x: fast to draw.

    Arguments:
        latent_dim: length of z.
        transforms: T.
        context: features of x that every map reads.
        hidden: width of each map's hidden layer.

    Source: Kingma et al. (2016), arXiv:1606.04934.
    """

    def __init__(self, latent_dim: int, transforms: int = 2, context: int = 32, hidden: int = 128) -> None:
        super().__init__(latent_dim)
        self.context = context
        orders = [torch.arange(latent_dim), torch.arange(latent_dim).flip(0)]
        self.transforms = nn.ModuleList(
            MaskedAutoregressiveTransform(latent_dim, context, order=orders[t % 2], hidden_features=(hidden,))
            for t in range(transforms)
        )

    @property
    def inputs(self) -> int:
        return 2 * self.latent_dim + self.context

    def forward(self, h: Tensor) -> InverseAutoregressive:
        mean, log_std, context = h.split([self.latent_dim, self.latent_dim, self.context], 1)
        base = diagonal_gaussian(mean, log_std.clamp(-WIDEST, WIDEST).exp())
        return InverseAutoregressive(base, [t(F.silu(context)) for t in self.transforms])


class InverseAutoregressive(D.Distribution):
    """A Gaussian pushed through maps that are fast from ε to z; the log-density of its own draw costs nothing more.

    Arguments:
        base: the law of ε.
        maps: invertible, of the type of zuko's transforms.
    """

    arg_constraints: dict[str, D.constraints.Constraint] = {}

    def __init__(self, base: D.Independent, maps: list[Any]) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.maps = base, maps
        self._drawn: tuple[Tensor, Tensor] | None = None

    def draw(self, noise: Noise) -> Tensor:
        """z = f(ε); log q(z) = log N(ε) − log |det ∂f/∂ε| is remembered."""
        z = draw(self.base, noise)
        log_q = self.base.log_prob(z)
        for f in self.maps:
            z, ladj = f.call_and_ladj(z)
            log_q = log_q - ladj
        self._drawn = z, log_q
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), (B,); for a z from elsewhere f is inverted, one coordinate after the other."""
        if self._drawn is not None and z is self._drawn[0]:
            return self._drawn[1]
        ladj = z.new_zeros(len(z))
        for f in reversed(self.maps):
            e = f.inv(z)
            ladj, z = ladj + f.log_abs_det_jacobian(e, z), e
        return self.base.log_prob(z) - ladj

    @property
    def mean(self) -> Tensor:
        """f(μ), the image of the base's mean: a deterministic code near the bulk of q, not its exact mean."""
        z = self.base.mean
        for f in self.maps:
            z = f(z)
        return z


def make_posterior(family: PosteriorFamily, latent_dim: int) -> Posterior:
    """The posterior called `family`."""
    return {"diagonal": Diagonal, "full": Full, "flow": FlowPosterior}[family](latent_dim)


class KLWeight(nn.Module):
    """β·min(1, step/warmup): training mode counts a step at each call that has gradients; out of it the weight is β.

    Arguments:
        beta: the weight after the warm-up.
        warmup: steps over which it rises from 0.

    Source: Bowman et al. (2015), arXiv:1511.06349.
    """

    steps: Tensor

    def __init__(self, beta: float, warmup: int) -> None:
        super().__init__()
        self.beta, self.warmup = beta, warmup
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self) -> float:
        if not (self.warmup and self.training):
            return self.beta
        if torch.is_grad_enabled():
            self.steps += 1
        return self.beta * min(1.0, self.steps.item() / self.warmup)

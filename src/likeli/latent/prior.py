"""Families of p(z): standard normal, mixture of Gaussians, mixture of posteriors, autoregressive flow; and of p(z|y)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributions as D
from zuko.distributions import NormalizingFlow
from zuko.flows import NSF

from likeli.probability.draw import diagonal_gaussian
from likeli.random import Noise

PriorFamily = Literal["normal", "mixture", "vamp", "flow", "conditional", "conditional_flow"]
LOG_TAU = math.log(2 * math.pi)
Encode = Callable[[Tensor], D.Distribution]


class Prior(nn.Module, ABC):
    """p(z) with parameters of its own."""

    @abstractmethod
    def forward(self, rows: int, like: Tensor) -> D.Distribution:
        """p(z) with batch (rows,) and event (latent_dim,), of the dtype and device of `like`, the features of y (rows, …)."""


class StandardNormal(Prior):
    """N(0, I).

    Arguments:
        latent_dim: length of z.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, rows: int, like: Tensor) -> D.Independent:
        return diagonal_gaussian(like.new_zeros(rows, self.latent_dim), like.new_ones(rows, self.latent_dim))


class ConditionalNormal(Prior):
    """p(z|y) = N(μ(y), diag σ(y)²), N(0, I) for every y at the start.

    With p(z) in its place a decoder is asked, when it samples, for pairs of z and y that no example has where codes tell y.

    Arguments:
        latent_dim: length of z.
        given: features of y.

    Source: Sohn et al. (2015), Learning structured output representation using deep conditional generative models.
    """

    def __init__(self, latent_dim: int, given: int) -> None:
        super().__init__()
        last = nn.Linear(64, 2 * latent_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(given, 64), nn.SiLU(), last)

    def forward(self, rows: int, like: Tensor) -> D.Independent:
        mean, log_std = self.net(like).chunk(2, 1)
        return diagonal_gaussian(mean, log_std.clamp(-7, 7).exp())


class GaussianMixture(Prior):
    """Σ_k π_k N(μ_k, diag σ_k²), everything learned.

    Arguments:
        latent_dim: length of z.
        components: K.
    """

    def __init__(self, latent_dim: int, components: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_stds = nn.Parameter(torch.zeros(components, latent_dim))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self, rows: int, like: Tensor) -> MixtureOfDiagonals:
        return MixtureOfDiagonals(rows, self.means, self.log_stds.exp(), self.logits.log_softmax(0))


class VampPrior(Prior):
    """Σ_k π_k q(z|u_k): the aggregate posterior of K learned pseudo-inputs.

    Arguments:
        features: shape of one encoder input.
        components: K.
        encode: (K, *features) → q, diagonal; the model's own encoder, whose parameters belong to the model.

    Source: Tomczak & Welling (2017), arXiv:1705.07120, with learned weights.
    """

    def __init__(self, features: tuple[int, ...], components: int, encode: Encode) -> None:
        super().__init__()
        self.pseudo_inputs = nn.Parameter(0.5 * torch.randn(components, *features))
        self.logits = nn.Parameter(torch.zeros(components))
        self._encode = (encode,)  # in a tuple, so that the encoder is not registered as a part of the prior

    def forward(self, rows: int, like: Tensor) -> MixtureOfDiagonals:
        q: Any = self._encode[0](self.pseudo_inputs)
        return MixtureOfDiagonals(rows, q.base_dist.loc, q.base_dist.scale, self.logits.log_softmax(0))


class MixtureOfDiagonals(D.Distribution):
    """One mixture of diagonal Gaussians for every row.

    Arguments:
        rows: size of the batch.
        means, stds: (K, d).
        log_weights: (K,), normalised.
    """

    arg_constraints: dict[str, D.constraints.Constraint] = {}

    def __init__(self, rows: int, means: Tensor, stds: Tensor, log_weights: Tensor) -> None:
        super().__init__(torch.Size([rows]), means.shape[1:], validate_args=False)
        self.means, self.stds, self.log_weights = means, stds, log_weights

    def log_prob(self, z: Tensor) -> Tensor:
        """log Σ_k π_k N(z; μ_k, σ_k²), (B, d) → (B,).

        Squares are expanded, so that all distances are one matrix product, in double precision, which the expansion needs.
        """
        wide, means, precisions = z.double(), self.means.double(), self.stds.double().square().reciprocal()
        natural = torch.cat([-0.5 * precisions, means * precisions], 1)
        constant = self.log_weights - 0.5 * ((means.square() * precisions - precisions.log()).sum(1) + z.shape[1] * LOG_TAU)
        return (torch.cat([wide.square(), wide], 1) @ natural.T + constant).logsumexp(1).to(z.dtype)

    def draw(self, noise: Noise) -> Tensor:
        """Component by the inverse cdf of one uniform, then a Gaussian."""
        cdf = self.log_weights.double().exp().cumsum(0)
        u = noise.uniform().to(cdf) * cdf[-1]
        k = torch.searchsorted(cdf, u, right=True).clamp(max=len(cdf) - 1)
        return self.means[k] + self.stds[k] * noise.normal(self.means.shape[1]).to(self.means)

    @property
    def mean(self) -> Tensor:
        """Σ_k π_k μ_k for every row."""
        return (self.log_weights.exp() @ self.means).expand(*self.batch_shape, -1)


class FlowPrior(Prior):
    """Autoregressive neural splines: several modes even in one dimension, fast to score, drawn one coordinate after the other.

    Arguments:
        latent_dim: length of z.
        transforms: number of maps.
        hidden: width of each map's hidden layers.
        given: features of y that every map hears, for p(z|y); 0 for p(z).

    Source: Durkan et al. (2019), arXiv:1906.04032.
    """

    def __init__(self, latent_dim: int, transforms: int = 2, hidden: int = 128, given: int = 0) -> None:
        super().__init__()
        self.latent_dim, self.given = latent_dim, given
        self.flow = NSF(latent_dim, given, transforms=transforms, hidden_features=(hidden, hidden))

    def forward(self, rows: int, like: Tensor) -> PushedNormal:
        return PushedNormal(like.new_zeros(rows, self.latent_dim), self.flow(like if self.given else None))


class PushedNormal(D.Distribution):
    """One flow for every row, or one that hears what is given of each.

    Arguments:
        like: (rows, d), the batch's shape, dtype and device.
        flow: what zuko calls a NormalizingFlow, with a standard normal base.
    """

    arg_constraints: dict[str, D.constraints.Constraint] = {}

    def __init__(self, like: Tensor, flow: NormalizingFlow) -> None:
        super().__init__(like.shape[:1], like.shape[1:], validate_args=False)
        self.like, self.flow = like, flow

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(f(z); 0, I) + log |det ∂f/∂z|, (B,)."""
        return self.flow.log_prob(z)

    def draw(self, noise: Noise) -> Tensor:
        """f⁻¹(ε)."""
        return self.flow.transform.inv(noise.normal(*self.event_shape).to(self.like))


def make_prior(
    family: PriorFamily, latent_dim: int, components: int, features: tuple[int, ...], encode: Encode, given: int = 0
) -> Prior:
    """The prior called `family`.

    Arguments:
        latent_dim: length of z.
        components: of a mixture, or pseudo-inputs of a VampPrior.
        features, encode: the encoder's input and the encoder, for a VampPrior.
        given: features of y, for a conditional one.
    """
    if family == "conditional":
        return ConditionalNormal(latent_dim, given)
    if family == "conditional_flow":
        return FlowPrior(latent_dim, given=given)
    if family == "vamp":
        return VampPrior(features, components, encode)
    if family == "mixture":
        return GaussianMixture(latent_dim, components)
    return FlowPrior(latent_dim) if family == "flow" else StandardNormal(latent_dim)

"""The denoiser of data whose law is known: a mixture of Gaussians, at any noise."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch import distributions as D

from likeli.diffusion.denoiser import Conditional, Denoise, Prediction
from likeli.diffusion.sampler import Sampler, trajectory
from likeli.diffusion.schedule import Point, Schedule, bridge
from likeli.diffusion.times import check_times
from likeli.errors import require
from likeli.random import Noise

REACH, NODES = 9.0, {1: 801, 2: 161}  # of the quadrature of `non_gaussianity`: standard deviations, points an axis


class MixtureDenoiser(Conditional):
    """E[x|z], E[ε|z] and log p_t(z) in closed form for x ~ Σ_k w_k N(m_k, C_k), since z ~ Σ_k w_k N(α m_k, α² C_k + σ² I).

    Arguments:
        schedule: t → (α, σ).
        weights: (K,), made to sum to one.
        means: (K, D) in model units.
        covariances: (K, D, D), or (K, D) for diagonal ones.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    axes: Tensor
    turn: Tensor
    centres: Tensor

    def __init__(self, schedule: Schedule, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__(schedule)
        full = covariances if covariances.ndim == 3 else torch.diag_embed(covariances)
        require(full.shape == (*means.shape, means.shape[1]), "covariances", "(K, D, D) or (K, D)", tuple(covariances.shape))
        variances, axes = torch.linalg.eigh(full)
        require(bool((variances > -1e-9 * variances.max()).all()), "covariances", "positive ones", variances.min().item())
        known = {"weights": weights / weights.sum(), "means": means, "variances": variances, "axes": axes}
        known["turn"] = axes.movedim(0, 1).flatten(1)  # all axes side by side, (D, K·D): one product turns z into every frame
        known["centres"] = torch.einsum("kij,ki->kj", axes, means)
        for name, value in known.items():
            self.register_buffer(name, value)

    def forward(self, z: Tensor, at: Point, y: Tensor | None = None) -> Prediction:
        """z (B, D); y is not used."""
        at = at.like(z)
        log_joint, whitened, variance = self._components(z, at)
        share = log_joint.softmax(1)
        pulled = share[..., None] * whitened / variance
        eps = at.sigma * (pulled.flatten(1) @ self.turn.mT)
        x = share @ self.means + at.alpha * ((pulled * self.variances).flatten(1) @ self.turn.mT)
        return Prediction(z, at.alpha, at.sigma, x, eps)

    def log_density(self, z: Tensor, at: Point) -> Tensor:
        """log p_t(z), (B, D) → (B,)."""
        return self._components(z, at.like(z))[0].logsumexp(1)

    def responsibilities(self, z: Tensor, at: Point) -> Tensor:
        """P(k|z), (B, D) → (B, K)."""
        return self._components(z, at.like(z))[0].softmax(1)

    def variance(self, z: Tensor, at: Point) -> Tensor:
        """Var[x|z] of each cell, (B, D): what of x the noise has hidden."""
        place = at.like(z)
        share = self.responsibilities(z, at)
        mean, spread = self._given_component(z, place)
        cells = torch.einsum("kij,bkj->bki", self.axes.square(), spread.expand_as(mean))
        second = (share[..., None] * (cells + mean.square())).sum(1)
        return second - (share[..., None] * mean).sum(1).square()

    def reverse(self, z: Tensor, s: Point, t: Point) -> D.MixtureSameFamily:
        """q(z_s|z_t = z) without x, s < t: a mixture, Gaussian only in the limit of small steps.

        Arguments:
            z: (B, D) at t.
            s, t: one place each.
        """
        mean, spread = self._given_component(z, t.like(z))
        a, b, std = bridge(s, t)
        inner = (self.axes * (b.square() * spread + std.square())[..., None, :]) @ self.axes.mT
        parts = D.MultivariateNormal(a * z[:, None] + b * mean, inner.expand(*mean.shape, mean.shape[-1]))
        return D.MixtureSameFamily(D.Categorical(self.responsibilities(z, t)), parts)

    def non_gaussianity(self, z: Tensor, s: Point, t: Point) -> Tensor:
        """KL(q(z_s|z_t) ‖ the Gaussian of equal mean and covariance), (B,) nats: what no Gaussian p(z_s|z_t) can do better.

        By quadrature over `REACH` standard deviations, so in one or two cells.

        Arguments:
            z, s, t: as in `reverse`.
        """
        cells = z.shape[1]
        require(cells in NODES, "z", "rows of one or two cells", cells)
        p = self.reverse(z, s, t)
        parts, share = p.component_distribution, p.mixture_distribution.probs[..., None, None]
        assert isinstance(parts, D.MultivariateNormal)
        outer = (parts.mean - p.mean[:, None])[..., None]
        root = torch.linalg.cholesky((share * (parts.covariance_matrix + outer @ outer.mT)).sum(1))
        axis = torch.linspace(-REACH, REACH, NODES[cells], dtype=z.dtype)
        grid = torch.cartesian_prod(*[axis] * cells).reshape(-1, cells)
        reference = D.MultivariateNormal(p.mean, scale_tril=root)
        places = p.mean + torch.einsum("bij,nj->nbi", root, grid)
        ratio = p.log_prob(places) - reference.log_prob(places)
        mass = D.Normal(0.0, 1.0).log_prob(grid).sum(1).exp() * (axis[1] - axis[0]) ** cells
        return (mass[:, None] * (ratio.exp() * ratio - ratio.expm1())).sum(0)  # the last two sum to zero: terms ≥ 0

    def _given_component(self, z: Tensor, at: Point) -> tuple[Tensor, Tensor]:
        """Mean of x given z and the component (B, K, D), and its variances along the component's own axes (…, K, D)."""
        _, whitened, variance = self._components(z, at)
        gain = at.alpha[..., None] * self.variances / variance
        mean = self.means + torch.einsum("kij,bkj->bki", self.axes, gain * whitened)
        return mean, self.variances * at.sigma[..., None].square() / variance

    def _components(self, z: Tensor, at: Point) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = at.alpha[..., None], at.sigma[..., None]
        whitened = (z @ self.turn).unflatten(1, self.means.shape) - alpha * self.centres
        variance = alpha.square() * self.variances + sigma.square()
        log_cells = -0.5 * (whitened.square() / variance + variance.log() + math.log(2 * math.pi))
        return log_cells.sum(-1) + self.weights.log(), whitened, variance


def noising(schedule: Schedule, z: Tensor, times: Tensor, noise: Noise) -> Iterator[tuple[Point, Tensor]]:
    """z_t = z_s + f z_s (t − s) + g √(t − s) ξ by Euler and Maruyama, every state: weak order 1.

    The exact transition is `likeli.diffusion.schedule.kernel`; this is for seeing that the two agree.

    Arguments:
        schedule: whose f and g.
        z: (B, ...) at times[0].
        times: rising, in [0, 1].
        noise: where ξ comes from.
    """
    points = schedule.at(_rising(times))
    yield Point(*(v[0] for v in points)), z
    for s, t in pairwise(Point(*v) for v in zip(*points)):
        h = t.t - s.t
        kick = (schedule.diffusion(s.t) * h).sqrt() * noise.normal(*z.shape[1:]).to(z)
        z = z + h * schedule.drift(s.t) * z + kick
        yield t, z


def noising_moments(schedule: Schedule, times: Tensor, variance: float = 0.0) -> tuple[float, float]:
    """The factor on the mean and the variance of one cell that `noising` ends with, by its own recursion, without noise.

    Arguments:
        schedule, times: as in `noising`.
        variance: at times[0].
    """
    times = _rising(times)
    steps = times.diff()
    grow = (1 + steps * schedule.drift(times[:-1])).tolist()
    for factor, gained in zip(grow, (steps * schedule.diffusion(times[:-1])).tolist()):
        variance = factor**2 * variance + gained
    return torch.tensor(grow, dtype=torch.float64).prod().item(), variance


class _Impulses:
    """Noise whose number n is one in row n and nought in every other; as uniform noise always the same."""

    def __init__(self, rows: int) -> None:
        self.rows, self.drawn = rows, 0

    def normal(self, *shape: int) -> Tensor:
        out = torch.zeros(self.rows, *shape, dtype=torch.float64)
        out[self.drawn : self.drawn + 1] = 1
        self.drawn += 1
        return out

    def uniform(self, *shape: int) -> Tensor:
        return torch.full((self.rows, *shape), 0.25, dtype=torch.float64)


def variance_ratio(sampler: Sampler | str, schedule: Schedule, times: Tensor, variance: float = 1.0) -> float:
    """Var z_0 of a sampler's draws over α_0² v + σ_0², that of the data: x ~ N(0, v), its denoiser known, z_1 ~ p(z_1).

    Such a sampler is linear in its noise, so that the squares of its responses to each number drawn add up to its variance: no
    random number is drawn, and the ratio is exact to rounding.

    Arguments:
        sampler: a sampler, or the name of one.
        schedule: t → (α, σ), the same for all cells.
        times: falling, in [0, 1].
        variance: v, in model units.
    """
    require(variance > 0, "variance", "a positive number", variance)
    one = torch.ones(1, 1, dtype=torch.float64)
    denoise = MixtureDenoiser(schedule, one[0], 0 * one, variance * one).given(None)

    def run(rows: int) -> tuple[_Impulses, Point, Tensor]:
        noise = _Impulses(rows)
        z = schedule.prior_std() * noise.normal(1)
        return noise, *deque(trajectory(denoise, z, times, noise, sampler), maxlen=1)[0]

    _, last, z = run(run(1)[0].drawn)
    return (z.square().sum() / (last.alpha.square() * variance + last.sigma.square())).item()


def score_gap(denoise: Denoise, truth: Denoise, u: Tensor, eps: Tensor, times: Tensor) -> Tensor:
    """½ ∫ ‖ε̂ − ε̂*‖² dγ for each row, (B,) nats, by the trapezium rule; its mean over data bounds KL(p ‖ model).

    Arguments:
        denoise, truth: of the model, and of the data: one schedule.
        u: (B, ...) rows of data in model units.
        eps: (B, ...) the noise that carries each row along the whole path.
        times: rising, in [0, 1].

    Source: Song et al. (2021), arXiv:2101.09258, theorem 1.
    """
    points = denoise.schedule.at(_rising(times))
    errors = []
    for t in (Point(*v) for v in zip(*points)):
        place = t.like(u)
        z = place.alpha * u + place.sigma * eps
        errors.append((denoise(z, t).eps - truth(z, t).eps).square().flatten(1).sum(1))
    return 0.5 * torch.trapezoid(torch.stack(errors, 1), points.gamma.to(u), dim=1)


def _rising(times: Tensor) -> Tensor:
    return check_times(torch.as_tensor(times).flip(0)).flip(0)

"""Restoration: draws given a linear reading against posteriors in closed form, their ranks, and what a wrong σ shows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from likeli.diffusion.denoiser import Denoise, Prediction
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.restoration import (
    MMPS,
    Grey,
    Linear,
    Mask,
    Operator,
    Pool,
    PosteriorSampler,
    TwistedSMC,
    posterior_draws,
    take_reading,
)
from likeli.diffusion.schedule import LogLinear, Point
from likeli.diffusion.solvers import Multistep
from likeli.evaluation.restoration import restore
from likeli.gaussian.linear_reading import PosteriorMixture, draw_given_reading, given_reading
from likeli.gaussian.missing import conditional
from likeli.models.ppca import PPCA
from likeli.random import seeded
from likeli.spaces import Real
from likeli.theory.check import identity
from likeli.theory.diffusion_truths import F64, draws, plane
from likeli.theory.truth import as_vae

Law = tuple[Tensor, Tensor, Tensor]  # weights, means, covariances
SCHEDULE = (-13.3, 10.0)
RANKED = 19  # draws among which a truth has its place: twenty places


def images(channels: int = 3, side: int = 2) -> Law:
    """A correlated Gaussian of small colour images, cells row-major."""
    cells = channels * side * side
    with seeded(0, "images"):
        turn = torch.linalg.qr(torch.randn(cells, cells, dtype=F64))[0]
    covariance = (turn * torch.linspace(0.1, 2, cells)) @ turn.mT
    return torch.ones(1).double(), torch.full((1, cells), 0.2).double(), covariance[None]


def matrix_of(operator: Operator) -> Tensor:
    """A as (M, D), the readings that are any."""
    eye = torch.eye(math.prod(operator.shape), dtype=F64).reshape(-1, *operator.shape)
    return operator.A(eye).flatten(1).mT[operator.seen().flatten()]


def drawn(law: Law, operator: Operator, y: Tensor, sigma: float, how: PosteriorSampler, n: int) -> Tensor:
    """n draws of each row, (n, B, D), by a sampler that is given the exact denoiser of the law."""
    shape, denoise = operator.shape, MixtureDenoiser(LogLinear(*SCHEDULE), *law).given(None)
    denoise = denoise if len(shape) == 1 else _shaped(denoise, shape)
    reading = take_reading(operator, y, sigma, torch.ones(shape, dtype=F64), torch.zeros(shape, dtype=F64))
    like = torch.zeros(len(y), *shape, dtype=F64)
    return posterior_draws(lambda rows: denoise, reading, how, n, 0, like, 20_000).flatten(2)


def _shaped(flat: Denoise, shape: tuple[int, ...]) -> Denoise:
    def function(z: Tensor, at: Point) -> Prediction:
        p, place = flat(z.flatten(1), at), at.like(z)
        return Prediction(z, place.alpha, place.sigma, p.x.reshape(z.shape), p.eps.reshape(z.shape))

    return replace(flat, function=function)


def posterior(law: Law, matrix: Tensor, y: Tensor, sigma: float) -> PosteriorMixture:
    """What is known in closed form."""
    return given_reading(y, matrix, sigma, law[0], law[1], torch.linalg.cholesky(law[2]))


def off(x: Tensor, truth: PosteriorMixture, kept: Tensor | None = None) -> float:
    """The largest standard score of mean and variance of draws (n, D), over the cells that are not known."""
    free = truth.variance[0] > 1e-9 if kept is None else kept
    std, n = truth.variance[0][free].sqrt(), len(x)
    mean = ((x.mean(0) - truth.mean[0])[free] / std * math.sqrt(n)).abs().max()
    spread = ((x.var(0)[free] / std**2 - 1) / math.sqrt(2 / n)).abs().max()
    return max(mean.item(), spread.item())


@identity("R92", "I34", title="a mixture given A x + noise = conditioning of the joint of x and y", tolerance=1e-9)
def readings_condition_a_mixture() -> float:
    """The road beside it is the one for missing cells, x missing and y observed."""
    truth, matrix, sigma = plane(LogLinear()), torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, 0.7]], dtype=F64), 0.4
    covariances = (truth.axes * truth.variances[:, None]) @ truth.axes.mT
    y = torch.randn(5, 3, dtype=F64)
    found = posterior((truth.weights, truth.means, covariances), matrix, y, sigma)
    both = torch.cat([torch.eye(2, dtype=F64), matrix])
    noise = torch.diag(torch.tensor([0.0, 0.0, *[sigma**2] * 3], dtype=F64))
    tril = torch.linalg.cholesky(both @ covariances @ both.mT + noise)
    known = conditional(torch.cat([torch.full((5, 2), math.nan).double(), y], 1), truth.weights, truth.means @ both.mT, tril)
    variance = known.covariance.diagonal(dim1=1, dim2=2)[:, :2]
    gaps = [found.mean - known.mean[:, :2], found.weights - known.weights, found.variance - variance]
    return max(gap.abs().max().item() for gap in gaps)


@identity("R92", title="low resolution, a Gaussian: moments of MMPS draws and the exact ones, in s.e.", tolerance=4.5)
def low_resolution_has_the_exact_posterior() -> float:
    law, operator = images(), Pool((3, 2, 2), 2)
    y = torch.randn(1, 3, 1, 1, dtype=F64)
    x = drawn(law, operator, y, 0.1, MMPS(40, sampler=Multistep()), 1500)[:, 0]
    return off(x, posterior(law, matrix_of(operator), y.flatten(1), 0.1))


@identity("R94", title="grey without noise, a Gaussian of colour images: the same, in s.e.", tolerance=4.5)
def colours_have_the_exact_posterior() -> float:
    law, operator = images(), Grey((3, 2, 2))
    y = torch.randn(1, 2, 2, dtype=F64)
    x = drawn(law, operator, y, 0.0, MMPS(40, sampler=Multistep()), 1500)[:, 0]
    return off(x, posterior(law, matrix_of(operator), y.flatten(1), 0.0))


@identity("R94", title="grey without noise: largest gap between a draw's luminance and the one that was read", tolerance=1e-6)
def luminance_is_kept() -> float:
    law, operator = images(), Grey((3, 2, 2))
    y = 100 * torch.randn(1, 2, 2, dtype=F64)
    x = drawn(law, operator, y, 0.0, MMPS(8, sampler=Multistep()), 20)[:, 0]
    return (operator.A(x.reshape(-1, 3, 2, 2)) - y).abs().max().item() if x.std(0).max() > 0.1 else math.inf


@identity("R93", title="holes: known cells exactly, moments of hidden ones by MMPS, twisted SMC, in s.e.", tolerance=4.5)
def holes_have_the_exact_posterior() -> float:
    """Particles that are drawn again share ancestors, for which their number is counted as a quarter of itself."""
    law, seen = images(1, 2), torch.tensor([[[1, 0], [0, 1]]])
    operator, y, worst = Mask(seen, (1, 2, 2)), torch.randn(1, 1, 2, 2, dtype=F64), 0.0
    truth = posterior(law, matrix_of(operator), y[:, seen.bool()], 0.0)
    for how, part in ((MMPS(40, sampler=Multistep()), 1.0), (TwistedSMC(40, particles=1000), 0.25)):
        x = drawn(law, operator, y, 0.0, how, 1000)[:, 0]
        if not torch.allclose(x[:, seen.flatten().bool()], y[:, seen.bool()].expand(1000, -1), atol=1e-12):
            return math.inf
        worst = max(worst, math.sqrt(part) * off(x, truth, ~seen.flatten().bool()))
    return worst


def unevenness(places: Tensor) -> float:
    """−log₁₀ of the p-value that places 0 … RANKED are as frequent as each other: χ².

    Source: Talts et al. (2018), arXiv:1804.06788, simulation-based calibration.
    """
    counts = places.long().bincount(minlength=RANKED + 1).double()
    return -math.log10(max(float(stats.chisquare(counts.numpy()).pvalue), 1e-300))


@identity("R92", "I34", title="exact draws: −log₁₀ p that the truth's rank among 19 draws is even, by simulation", tolerance=3)
def ranks_of_exact_draws_are_even() -> float:
    truth, matrix, sigma = plane(LogLinear()), torch.tensor([[1.0, 0.5]], dtype=F64), 0.3
    covariances = (truth.axes * truth.variances[:, None]) @ truth.axes.mT
    x = draws(truth, 1000)
    y = x @ matrix.mT + sigma * torch.randn(1000, 1, dtype=F64)
    prior = truth.weights, truth.means, torch.linalg.cholesky(covariances)
    found, _ = draw_given_reading(y, matrix, sigma, prior, RANKED, 0)
    return max(unevenness((found[..., i] < x[:, i]).sum(0)) for i in (0, 1))


@identity("B13", title="twisted SMC: −log₁₀ p that the truth's rank among 19 draws is even", tolerance=3, slow=True)
def ranks_of_twisted_draws_are_even() -> float:
    truth, matrix, sigma = plane(LogLinear(*SCHEDULE)), torch.tensor([[1.0, 0.5]], dtype=F64), 0.3
    law = truth.weights, truth.means, (truth.axes * truth.variances[:, None]) @ truth.axes.mT
    x = draws(truth, 200)
    y = x @ matrix.mT + sigma * torch.randn(200, 1, dtype=F64)
    found = drawn(law, Linear((2,), matrix), y, sigma, TwistedSMC(32, particles=95), 95)[::5]
    return unevenness((found[..., 0] < x[:, 0]).sum(0))


@identity("R47", title="a VAE that is PPCA, q off: moments of holes by Metropolis within Gibbs, in s.e.", tolerance=4.5)
def chains_fill_holes_exactly() -> float:
    model, seen, n = _ppca(), torch.tensor([1, 1, 0, 0, 1]), 600
    x = model.sample(1, seed=4)
    found = restore(as_vae(model, exact=False), x, Mask(seen, (5,)), n=n, method="metropolis").draws[:, 0, ~seen.bool()]
    known = model.conditional(torch.where(seen.bool(), x, math.nan))
    std, mean = known.covariance[0].diagonal().sqrt()[~seen.bool()], known.mean[0, ~seen.bool()]
    scores = (found.mean(0) - mean) / std * math.sqrt(n), (found.var(0) / std**2 - 1) / math.sqrt(2 / n)
    return max(score.abs().max().item() for score in scores)


@identity("R47", title="the same: −log₁₀ p that the truth's rank among 19 chains is even", tolerance=3, slow=True)
def ranks_of_chains_are_even() -> float:
    model, seen = _ppca(), torch.tensor([1, 1, 0, 0, 1])
    x = model.sample(400, seed=5)
    found = restore(as_vae(model, exact=False), x, Mask(seen, (5,)), n=RANKED, method="metropolis")
    return max(unevenness((found.draws[..., i] < x[:, i]).sum(0)) for i in (2, 3))


def _ppca() -> PPCA:
    loadings = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    return PPCA.from_parameters(Real((5,)), loadings, torch.zeros(5, dtype=F64), 0.1).double()


@identity("B13", title="90 % intervals by MMPS on a Gaussian: coverage of the truth less 90 %, in s.e.", tolerance=4)
def intervals_cover_the_exact_conditional() -> float:
    """An interval of n = 99 draws holds a fresh exact draw with chance 0.9: the average over 200 readings."""
    law, seen = images(1, 2), torch.tensor([[[1, 0], [0, 1]]])
    operator, n = Mask(seen, (1, 2, 2)), 200
    x = torch.distributions.MultivariateNormal(law[1][0], law[2][0]).sample((n,))
    y = operator.A(x.reshape(n, 1, 2, 2) + 0.2 * torch.randn(n, 1, 2, 2, dtype=F64))
    ordered = drawn(law, operator, y, 0.2, MMPS(16, sampler=Multistep()), 99).sort(0).values
    held = ((x >= ordered[4]) & (x <= ordered[-5]))[:, ~seen.flatten().bool()].double().mean(1)
    return abs(held.mean().item() - 0.9) / (held.std().item() / math.sqrt(n))


@identity("B13", title="twisted SMC: slope of its mean's error over K = 64, 256, 1024 less −½", tolerance=0.2, slow=True)
def twisting_converges() -> float:
    """Root mean square over 24 runs of a mixture's posterior mean; its standard error is a tenth of a slope."""
    truth, matrix, sigma = plane(LogLinear(*SCHEDULE)), torch.tensor([[1.0, 0.5]], dtype=F64), 0.3
    law = truth.weights, truth.means, (truth.axes * truth.variances[:, None]) @ truth.axes.mT
    y, sizes, errors = torch.tensor([[0.2]], dtype=F64), (64, 256, 1024), []
    exact, operator = posterior(law, matrix, y, sigma), Linear((2,), matrix)
    reading = take_reading(operator, y, sigma, torch.ones(2, dtype=F64), torch.zeros(2, dtype=F64))
    for k in sizes:
        how, like = TwistedSMC(48, particles=k), torch.zeros(1, 2, dtype=F64)
        runs = [posterior_draws(lambda rows: truth.given(None), reading, how, k, seed, like) for seed in range(24)]
        gap = torch.stack([r[:, 0].mean(0) for r in runs]) - exact.mean
        errors.append((gap.square() / exact.variance).mean().sqrt().item())
    return abs(float(np.polyfit(np.log(sizes), np.log(errors), 1)[0]) + 0.5)


@identity("B13", title="σ off by 15 %: times in 20 that the misfit holds it; the right σ: that it does not", tolerance=1)
def a_wrong_sigma_is_seen() -> float:
    """30 readings of a law of two dimensions, 40 rows: a wrong σ is outside each time, the right one in one of 100."""
    loadings = torch.randn(30, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    model = PPCA.from_parameters(Real((30,)), loadings, torch.zeros(30, dtype=F64), 0.01).double()
    operator, wrong = Linear((30,), torch.eye(30)), 0
    for seed in range(20):
        x = model.sample(40, seed=seed)
        y = x + torch.randn(40, 30, dtype=F64)
        fits = [restore(model, y, operator, s, n=5, seed=seed).misfit().fits for s in (0.85, 1.0, 1.15)]
        wrong += fits[0] + fits[2] + (not fits[1])
    return float(wrong)

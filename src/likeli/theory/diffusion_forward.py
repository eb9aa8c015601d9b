"""Noise schedules, the way forth, and the step back that Bayes' rule gives."""

from __future__ import annotations

import itertools
import math
import warnings

import torch

from likeli.config import registered
from likeli.diffusion.exact import noising, noising_moments
from likeli.diffusion.learned import Monotone
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.schedule import (
    Betas,
    Cosine,
    LinearBeta,
    LogLinear,
    Schedule,
    Sigmoid,
    VariancePreserving,
    bridge,
    kernel,
)
from likeli.diffusion.times import uniform
from likeli.models.ddpm import DDPM
from likeli.random import Ambient
from likeli.spaces import Real
from likeli.theory.check import identity
from likeli.theory.diffusion_truths import F64, draws, plane, two_modes

TIMES = torch.linspace(0, 1, 101, dtype=F64)


def _schedules() -> list[Schedule]:
    known = registered(Schedule)  # type: ignore[type-abstract]
    return [c() for c in known.values() if c.__module__.startswith("likeli.")]


@identity(
    "R57", "R59", "I17",
    title="steps q(z_t|z_s), one after another, are q(z_t|x): mean and variance, every schedule",
    tolerance=1e-12,
)
def steps_compose() -> float:
    worst = 0.0
    for schedule in _schedules():
        points = [schedule.at(t) for t in uniform(50).flip(0)]
        mean, variance = points[0].alpha, points[0].sigma ** 2
        for s, t in itertools.pairwise(points):
            a, std = kernel(s, t)
            mean, variance = a * mean, a**2 * variance + std**2
        errors = mean / points[-1].alpha - 1, variance / points[-1].sigma ** 2 - 1
        worst = max(worst, *(e.abs().item() for e in errors))
    return worst


@identity("R57", title="variance preserving: data of unit variance keep it at every t", tolerance=1e-12)
def variance_is_preserved() -> float:
    schedules = [*(s for s in _schedules() if isinstance(s, VariancePreserving)), LinearBeta(8.0, 8.0)]
    return max((s(TIMES)[0].square() + s(TIMES)[1].square() - 1).abs().max().item() for s in schedules)


@identity(
    "R58",
    title="learned γ(t): rises everywhere, however its weights stand, and its ends stay: error of the ends",
    tolerance=1e-6,
)
def learned_schedule_is_pinned() -> float:
    worst = 0.0
    for scale in (0.3, 1.0, 3.0):
        schedule = Monotone(-9.0, 7.0).double()
        with torch.no_grad():
            for p in schedule.parameters():
                p.add_(scale * torch.randn_like(p))
        gamma = schedule.gamma(TIMES)
        ends = max(abs(gamma[0].item() + 9), abs(gamma[-1].item() - 7))
        worst = max(worst, ends if bool((gamma.diff() > 0).all()) else math.inf)
    return worst


@identity(
    "R60", "R57",
    title="ᾱ_T of 100 steps of the usual β is 0.364; it raises the alarm, and 1000 steps do not",
    tolerance=5e-4,
)
def short_chain_raises_the_alarm() -> float:
    x, kept = torch.randn(50, 2), math.inf
    for steps, alarm in ((100, True), (1000, False)):
        model = DDPM(Real((2,)), DenoiserBackbone(hidden=(4,)), steps, Betas(steps, beta_min=1e-4, beta_max=0.02))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            mismatch = model.log_likelihood(x, samples=2).errors["terminal_mismatch"]
        if any("terminal mismatch" in str(w.message) for w in said) is not alarm or (mismatch > 0.01) is not alarm:
            return math.inf
        kept = abs(model.schedule.at(1.0).alpha.item() ** 2 - 0.364) if alarm else kept
    return kept


@identity("R62", "I17", title="q(z_s|z_t, x) by DDPM's published coefficients, and by adding precisions", tolerance=5e-12)
def posterior_is_bayes_rule() -> float:
    """Relative errors; .8992, .5986 would be the misprint's.  The published form cancels to ε/(1 − ᾱ_1) = 2e-12."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    bar, i = (1 - betas).cumprod(0), torch.arange(1, 1000)
    schedule = Betas(1000)
    s, t = schedule.at((i - 1) / torch.tensor(999, dtype=F64)), schedule.at(i / torch.tensor(999, dtype=F64))
    a, b, std = bridge(s, t)
    gain, noise = kernel(s, t)
    precision = (gain / noise).square() + 1 / s.sigma.square()
    pairs = [
        (a, (1 - betas[i]).sqrt() * (1 - bar[i - 1]) / (1 - bar[i])),
        (b, bar[i - 1].sqrt() * betas[i] / (1 - bar[i])),
        (std.square(), betas[i] * (1 - bar[i - 1]) / (1 - bar[i])),
        (std.square(), 1 / precision),
        (a, gain / noise.square() / precision),
        (b, s.alpha / s.sigma.square() / precision),
    ]
    return max((got / want - 1).abs().max().item() for got, want in pairs)


@identity("R62", "I17", title="a wide step back, where nothing cancels: coefficients by adding precisions", tolerance=1e-12)
def wide_posterior_is_bayes_rule() -> float:
    worst = 0.0
    for schedule in (LogLinear(-6, 6), Cosine(-6, 6), Sigmoid(-6, 6)):
        s, t = schedule.at(torch.tensor([0.1, 0.4, 0.0], dtype=F64)), schedule.at(torch.tensor([0.5, 0.6, 1.0], dtype=F64))
        a, b, std = bridge(s, t)
        gain, noise = kernel(s, t)
        precision = (gain / noise).square() + 1 / s.sigma.square()
        ones = std.square(), a * noise.square() / gain, b * s.sigma.square() / s.alpha
        worst = max(worst, *((v * precision - 1).abs().max().item() for v in ones))
    return worst


@identity("R61", title="non-Gaussianity of the step back over one of T steps falls as T⁻³: slope + 3", tolerance=0.1)
def reverse_kernel_becomes_gaussian() -> float:
    """A step of size h tilts a Gaussian of variance ∝ h by the cubic term of log p_s: skewness ∝ h^{3/2}, KL ∝ its square."""
    denoiser = two_modes(LogLinear(-5, 5))
    z = denoiser.schedule.at(0.5).alpha * draws(denoiser, 16)
    nongaussian = []
    for steps in (64, 128, 256):
        s, t = denoiser.schedule.at(0.5 - 1 / steps), denoiser.schedule.at(0.5)
        nongaussian.append(denoiser.non_gaussianity(z, s, t).mean().item())
    if not nongaussian[0] > nongaussian[1] > nongaussian[2] > 0:
        return math.inf
    return abs(math.log2(nongaussian[0] / nongaussian[2]) / 2 - 3)


@identity(
    "R81",
    title="Euler–Maruyama forth: moments at t = 1 err by O(1/n), weak order 1: slope − 1, VP and VE and sub-VP",
    tolerance=0.1,
)
def noising_is_of_weak_order_one() -> float:
    """The step is linear, so that mean and variance of the scheme itself follow a recursion without any noise."""
    worst = 0.0
    for schedule in _schedules():
        if schedule.kind() not in ("linear_beta", "variance_exploding", "sub_vp"):
            continue
        first, end, errors = schedule.at(0.0), schedule.at(1.0), []
        for n in (400, 800):
            mean, variance = noising_moments(schedule, uniform(n).flip(0), first.sigma.item() ** 2)
            errors.append(abs(variance / end.sigma.item() ** 2 - 1) + abs(mean * first.alpha.item() / end.alpha.item() - 1))
        worst = max(worst, abs(math.log2(errors[0] / errors[1]) - 1))
    return worst


@identity(
    "R81",
    title="Euler–Maruyama forth, drawn: mean and variance at t = 1 in standard errors of the closed form",
    tolerance=4.5,
)
def noising_has_its_moments() -> float:
    schedule, n = LinearBeta(first=1e-2), 5000
    first, end = schedule.at(0.0), schedule.at(1.0)
    start = first.alpha * 0.7 + first.sigma * torch.randn(n, 1, dtype=F64)
    *_, (_, z) = noising(schedule, start, uniform(600).flip(0), Ambient(start))
    mean, std = (end.alpha * 0.7).item(), end.sigma.item()
    scores = (z.mean().item() - mean) / std * n**0.5, (z.var().item() / std**2 - 1) / (2 / n) ** 0.5
    return max(abs(v) for v in scores)


@identity(
    "R57", "R59",
    title="draws of q(z_t|x) over three Gaussians have their closed density: mean surprise in standard errors",
    tolerance=4.5,
)
def noised_mixture_has_its_density() -> float:
    """E[log p_t(z)] over draws against E over draws of the mixture at t itself, two independent sets."""
    denoiser = plane(LogLinear(-6, 6))
    at = denoiser.schedule.at(0.45)
    x = draws(denoiser, 20_000)
    one = denoiser.log_density(at.alpha * x + at.sigma * torch.randn_like(x), at)
    k = torch.multinomial(denoiser.weights, 20_000, replacement=True)
    std = (at.alpha.square() * denoiser.variances[k] + at.sigma.square()).sqrt()
    white = std * torch.randn(20_000, 2, dtype=F64)
    two = denoiser.log_density(at.alpha * denoiser.means[k] + torch.einsum("bij,bj->bi", denoiser.axes[k], white), at)
    return abs((one.mean() - two.mean()).item()) / math.hypot(one.std().item(), two.std().item()) * 20_000**0.5

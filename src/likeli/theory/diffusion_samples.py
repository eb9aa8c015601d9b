"""Samples: the ways there and back share one law at every t, and the samplers are what they are called."""

from __future__ import annotations

import math
from itertools import chain, islice, pairwise

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from likeli.data.builtin.toys import ring8
from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.exact import MixtureDenoiser, noising, variance_ratio
from likeli.diffusion.langevin import AnalyticDPM, EulerMaruyama
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.sampler import DDIM, Ancestral, Sampler, trajectory
from likeli.diffusion.schedule import Karras, LinearBeta, LogLinear, Point, Straight, bridge
from likeli.diffusion.solvers import Heun, Multistep
from likeli.diffusion.times import even_log_snr, karras, uniform
from likeli.models.vdm import VDM
from likeli.probability.mcmc import langevin, mala
from likeli.random import Ambient, Replay, seeded
from likeli.spaces import Real
from likeli.theory.check import identity
from likeli.theory.diffusion_truths import F64, draws, plane

DIRECTIONS = 4


def surprise_of_law(truth: MixtureDenoiser, z: Tensor, at: Point) -> float:
    """−log₁₀ of the p-value that the rows of z are p_t's: exact marginals along four directions, Kolmogorov–Smirnov,
    Bonferroni."""
    p = 1.0
    for angle in np.linspace(0, np.pi, DIRECTIONS, endpoint=False):
        way = torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64)
        mean = (at.alpha * truth.means @ way).numpy()
        cells = at.alpha.square() * truth.variances + at.sigma.square()
        std = ((truth.axes.mT @ way).square() * cells).sum(1).sqrt().numpy()

        def cdf(v: np.ndarray, mean: np.ndarray = mean, std: np.ndarray = std) -> np.ndarray:
            return stats.norm.cdf((v[:, None] - mean) / std) @ truth.weights.numpy()

        p = min(p, float(stats.kstest((z @ way).numpy(), cdf).pvalue))
    return -math.log10(min(max(p * DIRECTIONS, 1e-300), 1.0))


def _end(denoise: Denoise, z: Tensor, times: Tensor, sampler: Sampler) -> tuple[Point, Tensor]:
    return list(trajectory(denoise, z, times, Ambient(z), sampler))[-1]


@identity(
    "R69",
    "R82",
    title="ancestral sampling, T = 1000, exact denoiser of a mixture: −log₁₀ p of the exact law of 2000 draws",
    tolerance=3,
)
def ancestral_samples_follow_the_law() -> float:
    truth = plane(LinearBeta(first=1e-4))
    at, z = _end(truth.given(None), torch.randn(2000, 2, dtype=F64), uniform(1000), Ancestral())
    return surprise_of_law(truth, z, at)


@identity(
    "R82",
    "I24",
    title="reverse SDE, 500 steps of Euler–Maruyama, exact score: −log₁₀ p of the exact law of 2000 draws",
    tolerance=3,
)
def reverse_sde_samples_follow_the_law() -> float:
    truth = plane(LinearBeta(first=1e-3))
    at, z = _end(truth.given(None), torch.randn(2000, 2, dtype=F64), karras(truth.schedule, 500), EulerMaruyama())
    return surprise_of_law(truth, z, at)


@identity(
    "I24",
    "R81",
    "R82",
    title="forward SDE, reverse SDE and probability flow at t = 0.1, 0.3, 0.6: −log₁₀ p of the exact p_t",
    tolerance=3,
)
def three_ways_share_their_marginals() -> float:
    truth, n, ways = plane(LinearBeta(first=1e-2)), 1000, []
    stops = torch.tensor([0.6, 0.3, 0.1], dtype=F64)
    times = torch.cat([torch.linspace(1, 0.1, 271, dtype=F64), torch.tensor([0.0], dtype=F64)])
    for sampler in (EulerMaruyama(), Multistep()):
        start, grid = torch.randn(n, 2, dtype=F64), times[::6] if sampler.deterministic else times
        ways.append(trajectory(truth.given(None), start, grid, Ambient(start), sampler))
    first = truth.schedule.at(0.0)
    start = first.alpha * draws(truth, n) + first.sigma * torch.randn(n, 2, dtype=F64)
    ways.append(noising(truth.schedule, start, uniform(300).flip(0), Ambient(start)))
    stopped = [surprise_of_law(truth, z, at) for at, z in chain(*ways) if bool((at.t - stops).abs().min() < 1e-9)]
    return max(stopped) if len(stopped) == 9 else math.inf


@identity(
    "R80",
    title="Langevin without rejection on N(0, 1/k): stationary variance 2/(2 − εk)/k, not 1/k, in standard errors",
    tolerance=4.5,
)
def langevin_variance_is_biased_as_known() -> float:
    """Our δ = 2ε; 100 steps forget the start by (1 − εk)^100, and the bias is 200 standard errors wide."""
    k, epsilon, n = 2.0, 0.4, 20_000
    start = torch.randn(n, 1, dtype=F64)
    z = next(islice(langevin(lambda v: -k * v, start, 2 * epsilon, Ambient(start)), 99, None))
    known = 2 / (2 - epsilon * k) / k
    return abs(z.var().item() / known - 1) / (2 / n) ** 0.5


@identity(
    "R80",
    title="Langevin with rejection: variance 1/k, in standard errors; it must reject some and accept most",
    tolerance=4.5,
)
def metropolis_removes_the_bias() -> float:
    k, epsilon, n = 2.0, 0.4, 20_000
    start = torch.randn(n, 1, dtype=F64)
    states = list(islice(mala(lambda v: -0.5 * k * v.square().sum(1), start, 2 * epsilon, Ambient(start)), 60))
    if not 0.5 < torch.stack([accepted.double().mean() for _, accepted in states]).mean().item() < 0.999:
        return math.inf
    z = states[-1][0]
    return abs(z.var().item() * k - 1) / (2 / n) ** 0.5


@identity(
    "I28",
    "B3",
    title="DDIM with η = 1, same noise = ancestral; η = 0 = Euler's step in σ/α: largest difference",
    tolerance=1e-10,
)
def ddim_has_two_ends() -> float:
    truth, worst = plane(LogLinear(-6, 6)), 0.0
    denoise = truth.given(None)
    for high, low in ((1.0, 0.9), (0.6, 0.55), (0.3, 0.0)):
        t, s = truth.schedule.at(high), truth.schedule.at(low)
        z, noise = torch.randn(2, 50, 2, dtype=F64)
        one, two = (sampler.step(denoise, z, t, s, Replay([noise]), None)[0] for sampler in (DDIM(1.0), Ancestral()))
        a, b, std = bridge(s, t)
        mean = a * z + b * denoise(z, t).x + std * noise
        euler = s.alpha * (z / t.alpha + (s.sigma / s.alpha - t.sigma / t.alpha) * denoise(z, t).eps)
        flow = DDIM(0.0).step(denoise, z, t, s, Replay([noise]), None)[0]
        worst = max(worst, *((p - q).abs().max().item() for p, q in ((one, two), (two, mean), (flow, euler))))
    return worst


@identity("I28", title="DDIM's variance at any η: that of its noise is η² times the ancestral one", tolerance=1e-10)
def ddim_variance_grows_with_eta() -> float:
    truth = plane(LogLinear(-6, 6))
    t, s, z = truth.schedule.at(0.5), truth.schedule.at(0.4), torch.randn(5, 2, dtype=F64)
    std, worst = bridge(s, t)[2], 0.0
    for eta in (0.2, 0.7, 1.0):
        ends = [DDIM(eta).step(truth.given(None), z, t, s, Replay([v * torch.ones_like(z)]), None)[0] for v in (0.0, 1.0)]
        worst = max(worst, ((ends[1] - ends[0]) / (eta * std) - 1).abs().max().item())
    return worst


@identity(
    "B3",
    "I28",
    title="variance kept by 16, 32, 64 steps on N(0, v): `analytic_dpm` all, `ancestral` by its recursion: largest difference",
    tolerance=1e-6,
)
def samplers_keep_the_variance_that_they_should() -> float:
    schedule, worst = LogLinear(-10, 14), 0.0
    for steps, v in ((16, 1.0), (32, 0.1), (64, 1.0)):
        times, now = uniform(steps), schedule.prior_std() ** 2
        for t, s in pairwise(map(schedule.at, times)):
            a, b, std = bridge(s, t)
            now = (a + b * t.alpha * v / (t.alpha**2 * v + t.sigma**2)) ** 2 * now + std**2
        last = schedule.at(0.0)
        expected = (now / (last.alpha**2 * v + last.sigma**2)).item()
        worst = max(worst, abs(variance_ratio(Ancestral(), schedule, times, v) - expected))
        worst = max(worst, abs(variance_ratio(AnalyticDPM(), schedule, times, v) - 1))
    return worst


@identity(
    "B3",
    title="orders on a mixture: shortfall of DDIM (1), Heun (2), multistep (3) over 32 to 128 steps",
    tolerance=0.35,
)
def samplers_have_their_order() -> float:
    truth, worst = plane(LogLinear(-5, 5)), -math.inf
    z = torch.randn(16, 2, dtype=F64)
    end = _end(truth.given(None), z, even_log_snr(truth.schedule, 600), Multistep(4))[1]
    for sampler, order in ((DDIM(), 1), (Heun(), 2), (Multistep(), 3)):
        grids = [even_log_snr(truth.schedule, n) for n in (32, 128)]
        errors = [(_end(truth.given(None), z, grid, sampler)[1] - end).norm().item() for grid in grids]
        worst = max(worst, order - math.log(errors[0] / errors[1]) / math.log(4))
    return worst


@identity(
    "B2",
    "B3",
    title="Heun on EDM's grid = the paper's algorithm 1 with 18 steps, 35 evaluations, written out: difference",
    tolerance=1e-10,
)
def edm_sampler_is_the_published_one() -> float:
    truth = plane(Karras())
    sigmas = ((80 ** (1 / 7) + torch.arange(18, dtype=F64) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7).tolist() + [0.0]

    def denoised(x: Tensor, sigma: float) -> Tensor:
        one, s = torch.ones((), dtype=F64), torch.tensor(sigma, dtype=F64)
        return truth(x, Point(s, one, s, 2 * s.log())).x

    z = 80 * torch.randn(50, 2, dtype=F64)
    x, calls = z, 0
    for here, there in pairwise(sigmas):
        slope, calls = (x - denoised(x, here)) / here, calls + 1
        ahead = x + (there - here) * slope
        if there > 0:
            slope, calls = (slope + (ahead - denoised(ahead, there)) / there) / 2, calls + 1
            ahead = x + (there - here) * slope
        x = ahead
    at, end = _end(truth.given(None), z, uniform(17), Heun())  # the step to σ = 0 is the denoised value itself
    return (truth(end, at).x - x).abs().max().item() if calls == 35 else math.inf


@identity(
    "B1",
    title="straight schedule: the flow of ε̂ − x̂ from noise is the data's law: −log₁₀ p of 2000 draws, 60 steps",
    tolerance=3,
)
def straight_flow_reaches_the_data() -> float:
    truth = plane(Straight())
    z = truth.schedule.at(1.0).alpha * draws(truth, 2000) + truth.schedule.at(1.0).sigma * torch.randn(2000, 2, dtype=F64)
    at, z = _end(truth.given(None), z, even_log_snr(truth.schedule, 60), Heun())
    return surprise_of_law(truth, z, at)


@identity(
    "R74",
    title="trained VDM: share of samples nearer to a training row than 99 % of held-out rows are, over its 3 σ limit",
    tolerance=1,
    slow=True,
)
def samples_are_new() -> float:
    with seeded(0, "R74"):
        toy = ring8()
        train, fresh = (toy.sample(2000, seed=s).float() for s in (1, 2))
        model = VDM(Real((2,)), backbone=DenoiserBackbone(hidden=(64, 64)))
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(400):
            optimiser.zero_grad()
            model.loss(train[torch.randint(0, 2000, (256,))]).mean().backward()
            optimiser.step()
    limit = torch.cdist(fresh, train).amin(1).quantile(0.01)
    near = (torch.cdist(model.sample(1000, steps=60), train).amin(1) < limit).double().mean().item()
    # 1 % and three standard errors of both shares: 20 held-out rows set the limit, 10 samples are expected below it
    return near / (0.01 + 3 * math.sqrt(0.01 * 0.99 * (1 / 1000 + 1 / 2000)))

"""One belief in every reading: x, ε, score, v; the losses that they give; the score matching losses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn

from likeli.diffusion.bound import low_discrepancy
from likeli.diffusion.denoiser import Denoiser, Prediction
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.losses import denoising_score_matching, implicit_score_matching
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.schedule import Karras, LogLinear, Point
from likeli.models.edm import EDM
from likeli.models.gmm import GMM
from likeli.models.vdm import VDM
from likeli.random import seeded
from likeli.spaces import Real
from likeli.theory.check import identity
from likeli.theory.diffusion_truths import F64, draws, plane, two_modes
from likeli.training.run import EMA

READINGS = ("x", "eps", "score", "v", "flow")


@identity(
    "R64", "R65", "R66", "R84",
    title="x → ε → score → v → flow and back, any order: largest change, relative to ‖z‖ + ‖x‖",
    tolerance=1e-12,
)
def readings_convert() -> float:
    worst, schedule = 0.0, LogLinear(-8, 8)
    for t in (0.1, 0.5, 0.9):
        at = schedule.at(t)
        x, eps = torch.randn(2, 5, 3, dtype=F64)
        z = at.alpha * x + at.sigma * eps
        for one, two in itertools.permutations(READINGS, 2):
            p = getattr(Prediction, f"of_{one}")(getattr(Prediction(z, at.alpha, at.sigma, x, eps), one), z, at.alpha, at.sigma)
            q = getattr(Prediction, f"of_{two}")(getattr(p, two), z, at.alpha, at.sigma)
            scale = (eps.norm() / at.alpha.clamp(max=1) + x.norm() / at.sigma.clamp(max=1)).item()
            worst = max(worst, (q.x - x).abs().max().item() / scale, (q.eps - eps).abs().max().item() / scale)
    return worst


@identity(
    "R66", "R84", "I18",
    title="errors of x, ε, score, v weighted by SNR, 1, σ², SNR/(1 + SNR) are one loss: relative difference",
    tolerance=1e-9,
)
def four_losses_are_one() -> float:
    schedule = LogLinear(-6, 6)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, eps = torch.randn(2, 7, 3, dtype=F64)
    point = schedule.at(torch.linspace(0.02, 0.98, 7, dtype=F64))
    at = point.like(x)
    truth = Prediction(at.alpha * x + at.sigma * eps, at.alpha, at.sigma, x, eps)
    snr, worst = (at.alpha / at.sigma).square(), 0.0
    weight = {"x": snr, "eps": torch.ones_like(snr), "score": at.sigma.square(), "v": snr / (1 + snr)}
    for predict in ("x", "eps", "score", "v", "flow", "edm"):
        with torch.no_grad():
            p = Denoiser(_Timeless(net), schedule, predict)(truth.z, point)
        losses = [(w * (getattr(truth, k) - getattr(p, k)).square()).sum().item() for k, w in weight.items()]
        worst = max(worst, (max(losses) - min(losses)) / losses[0])
    return worst


class _Timeless(nn.Module):
    """A network of z alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None) -> Tensor:
        return self.net(z)


@identity("R65", "R78", title="mixture of Gaussians: ε̂ of the best denoiser = −σ ∇ log p_t by autograd", tolerance=1e-8)
def best_noise_is_the_score() -> float:
    denoiser, worst = plane(LogLinear(-8, 8)), 0.0
    for t in (0.05, 0.4, 0.8):
        at = denoiser.schedule.at(t)
        z = (at.alpha * draws(denoiser, 50) + at.sigma * torch.randn(50, 2, dtype=F64)).requires_grad_()
        score = torch.autograd.grad(denoiser.log_density(z, at).sum(), z)[0]
        worst = max(worst, (denoiser(z, at).eps + at.sigma * score).abs().max().item())
    return worst


@identity("R78", title="score of the data themselves: autograd of GMM's log p = the closed form at σ → 0", tolerance=1e-8)
def family_score_is_closed() -> float:
    truth = plane(LogLinear(-8, 8))
    covariance = (truth.axes * truth.variances[:, None, :]) @ truth.axes.mT
    family = GMM.from_parameters(Real((2,)), truth.weights, truth.means, covariance).double()
    x = draws(truth, 40).requires_grad_()
    score = torch.autograd.grad(family.log_density(family.space.to_model(x, F64)).sum(), x)[0]
    near = Point(*(torch.tensor(v, dtype=F64) for v in (0.0, 1.0, 1e-12, -55.0)))
    return ((truth(x.detach(), near).score - score) / (1 + score.abs())).abs().max().item()


@identity(
    "R79", "I23",
    title="denoising and implicit score matching less explicit: the same for two networks, by quadrature",
    tolerance=1e-8,
)
def score_matching_losses_differ_by_a_constant() -> float:
    """x ~ two Gaussians, ε ~ N(0, 1) by Gauss–Hermite over both; smooth networks, so that 48 nodes are exact to rounding."""
    truth = two_modes(LogLinear(-4, 4))
    t, at = torch.tensor([0.55], dtype=F64), truth.schedule.at(0.55)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(48))
    weights = weights / weights.sum()
    x = (truth.means + truth.variances.sqrt() * nodes).reshape(-1, 1, 1)  # (2·48, 1, 1)
    mass = (truth.weights[:, None] * weights).reshape(-1, 1) * weights
    z = (at.alpha * x + at.sigma * nodes[:, None]).reshape(-1, 1)
    found = []
    for seed in (1, 2):
        with seeded(seed, "network"):
            net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        denoiser = Denoiser(_Timeless(net), truth.schedule, "score")
        p = denoiser(z, truth.schedule.at(t))
        score = p.score.reshape(mass.shape)
        with torch.no_grad():
            dsm = 0.5 * (score + nodes / at.sigma).square()
            esm = 0.5 * (score - truth(z, at).score.reshape(mass.shape)).square()
        ism = implicit_score_matching(lambda v, d=denoiser: d(v, at).score, z).detach().reshape(mass.shape)  # type: ignore[misc]
        found.append([(mass * loss).sum().item() for loss in (dsm, ism, esm)])
    constants = [[a - row[2] for a in row[:2]] for row in found]
    return max(abs(a - b) for a, b in zip(*constants))


@identity(
    "R79",
    title="the loss in code is σ² ‖s − ∇ log q(z|x)‖², squared: against its own formula at the same noise",
    tolerance=1e-12,
)
def denoising_loss_is_squared() -> float:
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    denoiser = Denoiser(_Timeless(net), LogLinear(-4, 4), "score")
    u, t = torch.randn(9, 2, dtype=F64), torch.rand(9, dtype=F64)
    with torch.no_grad():
        with seeded(3):
            loss = denoising_score_matching(denoiser, u, t)
        with seeded(3):
            eps = torch.randn_like(u)
        at = denoiser.schedule.at(t).like(u)
        z = at.alpha * u + at.sigma * eps
        target = -(z - at.alpha * u) / at.sigma.square()
        want = (at.sigma * (denoiser(z, denoiser.schedule.at(t)).score - target)).square().sum(1)
    return ((loss - want).abs() / want).max().item()


@identity(
    "B2",
    title="EDM: c_skip, c_out, c_in and the 18-step grid are the published ones: relative difference",
    tolerance=1e-6,
)
def edm_coefficients() -> float:
    data, worst = 0.5, 0.0
    f, z = torch.randn(2, 6, 1, dtype=F64)
    for sigma in (0.002, 0.1, 1.0, 80.0):
        s = torch.tensor(sigma, dtype=F64)
        x = Prediction.of_edm(f, z, torch.ones((), dtype=F64), s, data).x
        want = data**2 / (sigma**2 + data**2) * z + sigma * data / math.sqrt(sigma**2 + data**2) * f
        seen = _Seen()
        Denoiser(seen, Karras(), "edm", data)(z, Point(s, torch.ones_like(s), s, 2 * s.log()))
        into = z / math.sqrt(sigma**2 + data**2)
        worst = max(worst, ((x - want).abs() / want.abs()).max().item(), ((seen.z - into).abs() / into.abs()).max().item())
    sigmas = Karras().at(torch.linspace(1, 0, 18, dtype=F64)).sigma
    i = torch.arange(18, dtype=F64)
    grid = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    return max(worst, (sigmas / grid - 1).abs().max().item())


class _Seen(nn.Module):
    """Keeps what it is given."""

    z: Tensor

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None) -> Tensor:
        self.z = z
        return torch.zeros_like(z)


@identity("B2", title="EDM's loss weight: λ(σ) c_out² = 1, so that the loss is F's plain squared error", tolerance=1e-6)
def edm_loss_is_unweighted_in_f() -> float:
    model = EDM(Real((3,)), backbone=DenoiserBackbone(hidden=(8,), dropout=0.0)).double()
    x = torch.randn(50, 3, dtype=F64)
    seen = _Seen()
    model.denoiser.net, kept = seen, model.denoiser.net
    model.kept = kept  # a model computes in its parameters' type
    with torch.no_grad():
        with seeded(5):
            loss = model.loss(x)
        with seeded(5):
            quantile = low_discrepancy(50).clamp(1e-6, 1 - 1e-6)
            eps = torch.randn_like(x)
    sigma = (model.p_mean + model.p_std * torch.special.ndtri(quantile)).exp()[:, None]
    z = x + sigma * eps
    target = (x - z / (sigma**2 + 1)) * (sigma**2 + 1).sqrt() / sigma
    return (loss / target.square().sum(1) - 1).abs().max().item()


@identity(
    "B4",
    title="after 20 steps the average of the weights lies in their last half: share of the start left in it",
    tolerance=0.01,
)
def young_average_forgets_its_start() -> float:
    """Weights go from 1 to 0 after the first step: what the average still holds of the 1; a plain decay of 0.999 holds 0.98."""
    weight = torch.ones(1)
    average = EMA({"w": weight}, 0.999)
    weight.zero_()
    for _ in range(20):
        average.update()
    return average.average["w"].item()


@identity(
    "R73",
    title="VDM on two Gaussians: RMSE of x̂(z_t) to E[x|z_t] falls with training, and ends below",
    tolerance=0.06, slow=True,
)
def network_mean_approaches_the_posterior_mean() -> float:
    with seeded(0, "R73"):
        model = VDM(Real((1,)), backbone=DenoiserBackbone(hidden=(64, 64)))
        truth = two_modes(model.schedule)
        x = draws(truth, 4000).float()
        optimiser, errors = torch.optim.Adam(model.parameters(), 3e-3), []
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 600)
        for step in range(601):
            if step in (0, 60, 600):
                errors.append(_distance(model, truth))
            optimiser.zero_grad()
            model.loss(x[torch.randint(0, 4000, (256,))]).mean().backward()
            optimiser.step()
            schedule.step()
    return errors[-1] if errors[0] > errors[1] > errors[2] else math.inf


def _distance(model: VDM, truth: MixtureDenoiser) -> float:
    """Root mean square over t and z_t of x̂ − E[x|z]."""
    with torch.no_grad(), seeded(1, "distance"):
        u, t = draws(truth, 4000), (torch.arange(4000, dtype=F64) + 0.5) / 4000
        at = model.schedule.at(t)
        place = at.like(u)
        z = place.alpha * u + place.sigma * torch.randn_like(u)
        return (model.denoiser(z.float(), at).x - truth(z, at).x).square().mean().sqrt().item()

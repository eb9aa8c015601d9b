"""The bound of a diffusion: three rows, its limit, its dependence on the schedule, and the estimates of it."""

from __future__ import annotations

import itertools
import math

import torch

from likeli.contract import GenerativeModel
from likeli.diffusion.bound import level_kl, low_discrepancy, noise_error
from likeli.diffusion.denoiser import Denoiser
from likeli.diffusion.learned import Monotone
from likeli.diffusion.losses import weighted_noise_error
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.schedule import Betas, Cosine, LogLinear, Point, Sigmoid
from likeli.diffusion.times import Proposal
from likeli.errors import InputError
from likeli.latent.chain import LatentVariableModel
from likeli.models.ddpm import DDPM
from likeli.models.vdm import VDM
from likeli.probability.information import kl_divergence
from likeli.random import Ambient, Replay, seeded
from likeli.spaces import Pixels, Real
from likeli.theory.check import identity
from likeli.theory.diffusion_truths import (
    F64,
    SPREAD,
    chain,
    hermite,
    information,
    levels_in_closed_form,
    line,
    mean_bound,
    two_modes,
)

LOG_P = -0.5 * math.log(2 * math.pi * math.e * SPREAD**2)  # E log p of the Gaussian data, −1.9496


def _nudged(space: Pixels | Real, steps: int | None, **options: str) -> VDM:
    """A VDM in float64 whose network does something."""
    model = VDM(space, backbone=DenoiserBackbone(hidden=(16, 16)), noise="log_linear", steps=steps, **options).double()
    for p in model.denoiser.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@identity(
    "R56", "R52", "I15",
    title="VDM: the chain, level by level, = reconstruction − prior − ½ Σ (e^Δγ − 1) ‖ε − ε̂‖²",
    tolerance=1e-10,
)
def diffusion_chain_is_its_closed_form() -> float:
    model, worst = _nudged(Pixels((2, 3), 5), 12), 0.0
    x, noise = torch.randint(0, 5, (5, 2, 3)), [torch.randn(5, 2, 3, dtype=F64) for _ in range(13)]
    with torch.no_grad():
        elbo = model.elbo(x, noise=Replay(noise))
        u = model.infer(x)
        eps = [(s.z - s.state.at.alpha * u) / s.state.at.sigma for s in model.walk(Replay(noise), context=u)]
        closed = levels_in_closed_form(model, x, eps)
    for one, two in ((elbo.kl, closed.kl), (elbo.value, closed.value)):
        worst = max(worst, ((one - two).abs() / (1 + two.abs())).max().item())
    return worst


@identity(
    "R56",
    title="VDM is a hierarchy with dim z = dim x, a q without parameters and a fixed p(z_1): restrictions broken",
    tolerance=0,
)
def three_restrictions_hold() -> float:
    one, two = _nudged(Real((3,)), 5), _nudged(Real((3,)), 5)
    x = torch.randn(4, 3, dtype=F64)
    broken, noise, steps = 0 if isinstance(one, LatentVariableModel) else 1, torch.randn(4, 3, dtype=F64), []
    for model in (one, two):
        top, below, *_ = model.walk(Ambient(x), context=model.infer(x), choose=lambda level, q: noise)
        broken += not torch.equal(top.p.mean, torch.zeros_like(x))
        broken += (top.p.variance - 1).abs().max().item() > 1e-12
        assert below.q is not None
        broken += below.q.mean.requires_grad or below.q.mean.shape != x.shape
        steps.append(below.q.mean)
    broken += not torch.equal(*steps)
    one.denoiser = Denoiser(_Narrow(), one.schedule)
    try:
        one.elbo(x)
    except InputError:
        return broken
    return broken + 1


class _Narrow(torch.nn.Module):
    def forward(self, z: torch.Tensor, gamma: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        return z[:, :1]


@identity(
    "R63",
    title="Gaussian data, the best denoiser: bound over 10, 100, 1000, 10⁴ steps = −4.667, −2.139, −1.968, −1.952",
    tolerance=5e-4,
)
def bound_of_gaussian_data() -> float:
    known = {10: -4.667, 100: -2.139, 1000: -1.968, 10_000: -1.952}
    return max(abs(mean_bound(chain(t)).value.item() - value) for t, value in known.items())


@identity("R63", "I19", title="that bound rises with T and stays below E log p: largest violation", tolerance=0)
def bound_rises_to_log_p() -> float:
    values = [mean_bound(chain(t)).value.item() for t in (3, 10, 30, 100, 300, 1000, 3000)] + [LOG_P]
    return max(0.0, *(a - b for a, b in itertools.pairwise(values)))


@identity(
    "I19", "R63",
    title="its gap to T = ∞ is c/T with c = ½ Δγ (∫ − end terms) = 18.4: relative error of T·gap at T = 2000",
    tolerance=0.005,
)
def gap_is_one_over_steps() -> float:
    """Right-hand sums of a falling integrand: to first order half a step of its end values, and ½ h ∫ from e^h − 1 − h."""
    limit = information(SPREAD, -6, 6)
    ends = [SPREAD**2 * math.exp(-g) / (1 + SPREAD**2 * math.exp(-g)) for g in (-6.0, 6.0)]
    c = 6 * limit - 3 * (ends[0] - ends[1])
    gap = mean_bound(chain(2000)).diffusion.sum().item() - limit
    return abs(gap * 2000 / c - 1)


@identity(
    "R71", "I21",
    title="½ ∫ mmse dSNR = information between the ends = the T = ∞ diffusion term, Gaussian data",
    tolerance=1e-4,
)
def mmse_integral_is_information() -> float:
    model, (x, eps, weight) = chain(None), hermite(SPREAD)
    t = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    at = model.schedule.at(t.repeat_interleave(9))
    terms = noise_error(model.denoise(), x.repeat(4000, 1), eps.repeat(4000, 1), at)
    integral = (0.5 * model.schedule.rate(t)[1] * (terms.reshape(4000, 9) @ weight)).mean()
    return abs(integral.item() - information(SPREAD, -6, 6))


@identity(
    "R71", "I21",
    title="½ ∫ mmse dSNR of two Gaussians, by Var[x|z], = difference of the entropies that quadrature gives",
    tolerance=1e-4,
)
def mmse_integral_of_a_mixture() -> float:
    denoiser = two_modes(LogLinear(-6, 6))
    z, t = torch.linspace(-9, 9, 3001, dtype=F64)[:, None], torch.linspace(0, 1, 241, dtype=F64)
    known, mmse, snr = [], [], []
    for at in (Point(*v) for v in zip(*denoiser.schedule.at(t))):
        log_p = denoiser.log_density(z, at)
        mass = log_p.exp() * (z[1] - z[0])
        known.append(-(mass * log_p).sum() - 0.5 * torch.log(2 * math.pi * math.e * at.sigma.square()))
        mmse.append((mass * denoiser.variance(z, at)[:, 0]).sum())
        snr.append((-at.gamma).exp())
    slope = 0.5 * torch.stack(mmse) * torch.stack(snr)  # dSNR = −SNR dγ
    step = denoiser.schedule.gamma(t).diff()[0] / 3  # Simpson's rule, evenly spaced in γ
    integral = step * (slope[0] + slope[-1] + 4 * slope[1:-1:2].sum() + 2 * slope[2:-1:2].sum())
    return abs((integral - known[0] + known[-1]).item())


@identity("R71", "R63", title="bound over 10⁶ steps − its limit, less the known 18.4/T", tolerance=1e-6)
def steps_without_end() -> float:
    limit, steps = information(SPREAD, -6, 6), 1_000_000
    ends = [SPREAD**2 * math.exp(-g) / (1 + SPREAD**2 * math.exp(-g)) for g in (-6.0, 6.0)]
    c = 6 * limit - 3 * (ends[0] - ends[1])
    gammas = chain(None).schedule.gamma(torch.linspace(0, 1, steps + 1, dtype=F64))
    mmse = SPREAD**2 / (SPREAD**2 + gammas[1:].exp())  # E‖ε − ε̂‖² of the best denoiser
    return abs((0.5 * gammas.diff().expm1() * mmse).sum().item() - limit - c / steps)


@identity(
    "R58", "I20",
    title="T = ∞: the diffusion term is one number for linear, cosine, sigmoid and learned γ(t) of equal ends",
    tolerance=1e-4,
)
def schedule_does_not_matter_between_its_ends() -> float:
    x, eps, weight = hermite(SPREAD)
    t = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    learned = Monotone(-6.0, 6.0).double()
    with torch.no_grad():
        learned.weight.add_(torch.linspace(-3, 3, 32, dtype=F64))
    found = []
    for schedule in (LogLinear(-6, 6), Cosine(-6, 6), Sigmoid(-6, 6), learned):
        at = schedule.at(t.repeat_interleave(9))
        place = at.like(x)
        u, noise = x.repeat(4000, 1), eps.repeat(4000, 1)
        error = noise - line(schedule)(place.alpha * u + place.sigma * noise, at).eps
        found.append((0.5 * schedule.rate(t)[1] * (error.square().reshape(4000, 9) @ weight)).mean().item())
    return max(found) - min(found)


@identity(
    "R58", "I20",
    title="a network's bound under two schedules of equal ends: difference in standard errors",
    tolerance=4.5,
)
def network_bound_is_free_of_the_path() -> float:
    x, values = torch.randn(2000, 2, dtype=F64), []
    model = _nudged(Real((2,)), None)
    for schedule in (LogLinear(-8, 8), Cosine(-8, 8)):
        model.denoiser.schedule = schedule
        with torch.no_grad():
            values.append(torch.stack([model.bound(x, low_discrepancy(2000)).value for _ in range(4)]).mean(0))
    gap = values[0] - values[1]
    return abs(gap.mean().item()) / gap.std().item() * len(gap) ** 0.5


@identity(
    "R68", "R70", "I22",
    title="DDPM's simple loss weighted by ½ (SNR_s − SNR_t)/SNR_t = the KL of the step, same noise",
    tolerance=1e-10,
)
def simple_loss_reweighted_is_the_bound() -> float:
    model = DDPM(Real((3,)), backbone=DenoiserBackbone(hidden=(16,), dropout=0.0), steps=40).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    u, points, worst = torch.randn(6, 3, dtype=F64), model.schedule.levels(40), 0.0
    with torch.no_grad():
        for i in range(1, 40):
            s, t = points.of(i - 1), points.of(i)
            weight = 0.5 * ((-s.gamma).exp() - (-t.gamma).exp()) / (-t.gamma).exp()
            with seeded(i, "simple"):
                simple = weight * weighted_noise_error(model.denoiser, u, t.t.expand(6))
            with seeded(i, "simple"):
                denoise = model.denoise()
                level = level_kl(denoise, noise_error(denoise, u, torch.randn_like(u), t), s, t)
            worst = max(worst, (simple / level - 1).abs().max().item())
    return worst


@identity(
    "R70", "R68",
    title="one level drawn at random: T·KL_t has the mean of the whole sum, in standard errors",
    tolerance=4.5,
)
def one_random_level_is_unbiased() -> float:
    model, x = _nudged(Real((2,)), 12), torch.randn(2, 2, dtype=F64)
    with torch.no_grad():
        many = [[torch.randn(500, 2, dtype=F64) for _ in range(model.depth)] for _ in range(4)]
        whole = torch.stack([levels_in_closed_form(model, x.repeat(250, 1), e).diffusion.sum(1) for e in many]).flatten()
        one = model.bound(x.repeat(5000, 1), torch.rand(10_000, dtype=F64)).diffusion.flatten()
    error = math.hypot(whole.std().item() / len(whole) ** 0.5, one.std().item() / len(one) ** 0.5)
    return abs((whole.mean() - one.mean()).item()) / error


@identity("R70", "B6", title="evenly spread t: mean bound as of independent t, in standard errors", tolerance=4.5)
def spread_times_are_unbiased() -> float:
    even, free = _batch_means()
    error = math.hypot(even.std().item(), free.std().item()) / len(even) ** 0.5
    return abs((even.mean() - free.mean()).item()) / error


@identity("R70", "B6", title="evenly spread t: variance of a batch's mean over that of independent t", tolerance=0.5)
def spread_times_vary_less() -> float:
    even, free = _batch_means()
    return (even.var() / free.var()).item()


def _batch_means() -> tuple[torch.Tensor, torch.Tensor]:
    """Means of the diffusion term of 64 cells, 900 batches of 16, at spread and at independent times; no control variate."""
    schedule, means = LogLinear(-6, 6), []
    denoiser = line(schedule, SPREAD, 64)
    for times in (torch.cat([low_discrepancy(16) for _ in range(900)]), torch.rand(14_400, dtype=F64)):
        u, eps, at = SPREAD * torch.randn(14_400, 64, dtype=F64), torch.randn(14_400, 64, dtype=F64), schedule.at(times)
        place = at.like(u)
        error = (eps - denoiser(place.alpha * u + place.sigma * eps, at).eps).square().sum(1)
        means.append((0.5 * schedule.rate(times)[1] * error).reshape(900, 16).mean(1))
    return means[0], means[1]


@identity("B6", "R70", title="times by importance: E f/density over them = ∫ f, for a density far from f", tolerance=1e-4)
def importance_keeps_the_mean() -> float:
    """By 160 000 midpoints: each of the 15 jumps of the weight is misplaced by at most one of them."""
    proposal = Proposal(16)
    t = (torch.arange(160_000, dtype=F64) + 0.5) / 160_000
    proposal.learn(t, 0.1 + t**3)
    where, weight = proposal.place(t)
    planted = weight.max().item() > 2  # the density is not even
    return abs((weight * (-3 * where).exp()).mean().item() - (1 - math.exp(-3)) / 3) if planted else math.inf


@identity(
    "B5", "R63",
    title="best variance of each level: Σ KL over few steps = information between the ends, for any T",
    tolerance=1e-10,
)
def learned_variances_close_the_gap() -> float:
    """With the reverse variance of the marginal, Gaussian data lose nothing to few steps; q's own loses nats."""
    worst = 0.0
    for steps in (4, 10, 50):
        noise = Betas(steps, beta_min=0.05, beta_max=0.6)
        model = DDPM(Real((1,)), DenoiserBackbone(hidden=(4,)), steps, noise, variance="learned").double()
        model.denoiser = line(model.schedule)
        points, t = model.schedule.levels(steps), slice(1, None)
        mmse = SPREAD**2 / (SPREAD**2 + points.gamma[t].exp())
        with torch.no_grad():
            model.log_ratios[t] = torch.log1p(points.gamma.diff().expm1() * mmse)
        known = information(SPREAD, points.gamma[0].item(), points.gamma[-1].item())
        best = mean_bound(model).diffusion.sum().item()
        model.variance = "small"
        model.log_ratios = None
        if not mean_bound(model).diffusion.sum().item() > best + 0.05:
            return math.inf
        worst = max(worst, abs(best - known))
    return worst


@identity(
    "R67",
    title="3 states, 3 steps, all 81 paths: KL of joints = KL of p(x_0) + E KL of the rest ≥ KL of p(x_0)",
    tolerance=1e-12,
)
def joint_kl_bounds_the_marginal() -> float:
    start, end = torch.rand(3, dtype=F64), torch.rand(3, dtype=F64)
    forth, back = (torch.rand(3, 3, 3, dtype=F64) for _ in range(2))
    start, end = start / start.sum(), end / end.sum()
    forth, back = forth / forth.sum(2, keepdim=True), back / back.sum(2, keepdim=True)
    p = torch.einsum("a,ab,bc,cd->abcd", start, *forth)
    q = torch.einsum("d,dc,cb,ba->abcd", end, *back)
    joint = float(kl_divergence(p.flatten(), q.flatten()))
    first, model = p.sum((1, 2, 3)), q.sum((1, 2, 3))
    marginal = float(kl_divergence(first, model))
    rest = [float(kl_divergence((p[a] / first[a]).flatten(), (q[a] / model[a]).flatten())) for a in range(3)]
    return max(abs(joint - marginal - sum(w * r for w, r in zip(first.tolist(), rest))), marginal - joint)


@identity(
    "R72",
    title="one network for all times: its parameters do not grow with T, all of them serve every t, and t matters: failures",
    tolerance=0,
)
def network_is_shared_over_time() -> float:
    failures = 0
    for network, hidden in (("mlp", (16, 16)), ("unet", (8, 8)), ("dit", (32,))):
        sizes = set()
        for steps in (10, 1000):
            with seeded(0, network):
                backbone = DenoiserBackbone(network, hidden, dropout=0.0)
                model: GenerativeModel = DDPM(Pixels((8, 8), 5), backbone, steps)
            sizes.add(sum(p.numel() for p in model.parameters()))
        assert isinstance(model, DDPM)
        net = model.denoiser.net
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
        z, outputs, reached = torch.randn(2, 8, 8), [], []
        for t in (0.2, 0.8):
            out = net(z, model.schedule.gamma(torch.full((2,), t, dtype=F64)).float(), None)
            reached.append([bool((g != 0).any()) for g in torch.autograd.grad(out.square().sum(), list(net.parameters()))])
            outputs.append(out)
        failures += (len(sizes) != 1) + (reached[0] != reached[1]) + (not any(reached[0]))
        failures += bool(torch.allclose(outputs[0], outputs[1]))
    return failures


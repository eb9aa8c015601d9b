"""Guidance: Bayes' rule on scores, what γ does to a law, and what each variant keeps."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from likeli.data.builtin.scenes import draw_captions, draw_scenes, read_scenes, render, true_of
from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.guidance import Guidance, against, classifier_guided, combined
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.sampler import trajectory
from likeli.diffusion.schedule import LogLinear, Point, Schedule
from likeli.diffusion.times import even_log_snr
from likeli.evaluation.sample_metrics import covered
from likeli.evaluation.two_sample import c2st
from likeli.models.vdm import VDM
from likeli.random import Ambient, seeded
from likeli.spaces import Labels, Real
from likeli.theory.check import identity
from likeli.theory.diffusion_truths import F64, draws, plane
from likeli.training.fit import fit

PARTS = ((0,), (1, 2))  # components of each class of the three Gaussians in the plane
SCALES = (1.0, 1.5, 2.0, 4.0, 8.0)


def of_class(whole: MixtureDenoiser, label: int) -> MixtureDenoiser:
    """The exact denoiser of p(x|y): the mixture of the components of a class."""
    own = list(PARTS[label])
    covariances = (whole.axes * whole.variances[:, None]) @ whole.axes.mT
    return MixtureDenoiser(whole.schedule, whole.weights[own], whole.means[own], covariances[own])


def log_class(whole: MixtureDenoiser, z: Tensor, at: Point, y: Tensor | None) -> Tensor:
    """log p(y|z_t) of a mixture, exact: the share of the class's components."""
    assert y is not None
    shares = whole.responsibilities(z, at)
    both = torch.stack([shares[:, list(part)].sum(1) for part in PARTS], 1).log()
    return both.gather(1, y.expand(len(z))[:, None])[:, 0]


@cache
def _world() -> tuple[Schedule, MixtureDenoiser]:
    schedule = LogLinear(-10.0, 8.0).double()
    return schedule, plane(schedule)


def _worst_score(guided: Denoise, truth: Denoise, schedule: Schedule) -> float:
    z = 1.5 * torch.randn(256, 2, dtype=F64)
    errors = [(guided(z, at).score - truth(z, at).score) * at.sigma for t in (0.05, 0.3, 0.6, 0.95) for at in [schedule.at(t)]]
    return torch.stack(errors).abs().max().item()


@identity("I31", "R88", title="∇log p(z_t) + ∇log p(y|z_t) = ∇log p(z_t|y), by σ, on a mixture", tolerance=1e-10)
def classifier_guidance_is_bayes() -> float:
    schedule, whole = _world()
    worst = 0.0
    for label in (0, 1):
        guided = classifier_guided(whole.given(None), lambda z, at, y: log_class(whole, z, at, y), torch.tensor([label]))
        worst = max(worst, _worst_score(guided, of_class(whole, label).given(None), schedule))
    return worst


@identity("I31", "R89", title="classifier-free = guidance by its implicit classifier, γ = −1, 2.5 and 7, by σ", tolerance=1e-10)
def free_guidance_has_an_implicit_classifier() -> float:
    schedule, whole = _world()
    part = of_class(whole, 1)

    def implicit(z: Tensor, at: Point, y: Tensor | None) -> Tensor:
        return part.log_density(z, at) - whole.log_density(z, at)

    worst = 0.0
    for scale in (-1.0, 2.5, 7.0):
        free = against(part.given(None), whole.given(None), Guidance(scale))
        worst = max(worst, _worst_score(free, classifier_guided(whole.given(None), implicit, None, scale), schedule))
    return worst


def guided_draws(denoise: Denoise, n: int) -> Tensor:
    """n ends of the probability flow, x̂ at the last level."""
    times = even_log_snr(denoise.schedule, 48)
    z = torch.randn(n, 2, dtype=F64) * torch.hypot(denoise.schedule.at(1.0).alpha, denoise.schedule.at(1.0).sigma)
    *_, (at, z) = trajectory(denoise, z, times, Ambient(z), "heun")
    return denoise(z, at).x


@identity("R88", title="guided by the exact classifier, γ = 1 samples p(x|y) and γ = 0 p(x), C2ST by its s.e.", tolerance=4.0)
def guided_samples_are_of_the_class() -> float:
    _, whole = _world()
    y, worst = torch.tensor([1]), 0.0
    for scale, truth in ((1.0, of_class(whole, 1)), (0.0, whole)):
        guided = classifier_guided(whole.given(None), lambda z, at, y: log_class(whole, z, at, y), y, scale)
        area, error = c2st(guided_draws(guided, 2000), draws(truth, 2000))
        worst = max(worst, abs(area - 0.5) / error)
    return worst


@identity("R90", title="from γ = 1 up p(y|x) rises and the recall of p(x|y) falls, the largest step back", tolerance=0.0)
def guidance_trades_recall_for_precision() -> float:
    schedule, whole = _world()
    part, y, clean = of_class(whole, 1), torch.tensor([1]), schedule.at(0.0)
    real, precision, recall = draws(part, 1000), [], []
    for scale in SCALES:
        with seeded(0, "one noise for all"):
            x = guided_draws(against(part.given(None), whole.given(None), Guidance(scale)), 1000)
        precision.append(log_class(whole, x * clean.alpha, clean, y).exp().mean().item())
        recall.append(covered(real.numpy(), x.numpy()))
    steps = zip(pairwise(precision), pairwise(recall))
    return max(max(a - b, d - c) for (a, b), (c, d) in steps)


def two_class_model() -> VDM:
    """A small conditional VDM of the plane's two classes, its weights moved off zero, where a network is deaf."""
    model = VDM(Real((2,)), DenoiserBackbone(hidden=(64, 64)), "eps", "log_linear", (-10.0, 8.0), condition=Labels(2))
    with torch.no_grad():
        for p in model.denoiser.net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@identity("R89", title="γ = 0 is the unconditional model and γ = 1 the conditional one: bits that differ", tolerance=0.0)
def guidance_keeps_both_ends() -> float:
    model, y = two_class_model(), torch.tensor([0, 1, 1, 0])
    plain, null = model.sample(4, y, steps=5), model.sample(4, torch.full((4,), -1), steps=5)
    ends = (model.sample(4, y, steps=5, guidance=g) for g in (1.0, 0.0))
    differ = sum(int((a != b).sum()) for a, b in zip(ends, (plain, null)))
    moved = (plain != null).all() and (model.sample(4, y, steps=5, guidance=2.0) != plain).all()
    return float(differ) if moved else math.inf


@identity("B26", title="interval, rescaling, projection and radius keep what they say, relative", tolerance=1e-12)
def variants_of_guidance() -> float:
    schedule, whole = _world()
    strong, weak = of_class(whole, 1).given(None), whole.given(None)
    at, z = schedule.at(0.5), 1.5 * torch.randn(64, 2, dtype=F64)
    p, q = strong(z, at), weak(z, at)
    off = against(strong, weak, Guidance(5.0, interval=(1e-9, 1e-8)))(z, at)
    errors = [(off.x - p.x).abs().max(), (off.eps - p.eps).abs().max()]
    even = combined(q, p, Guidance(5.0, rescale=1.0))
    errors.append((even.x.std(1) / p.x.std(1) - 1).abs().max())
    across = combined(q, p, Guidance(5.0, parallel=0.0))
    errors.append((((across.x - p.x) * p.x).sum(1) / p.x.square().sum(1)).abs().max())
    near = combined(q, p, Guidance(2.0, radius=0.1))
    errors.append(((near.x - p.x).norm(dim=1) - (p.x - q.x).norm(dim=1).clamp(max=0.1)).abs().max())
    for how in (even, across, near):  # each is still one belief: z = α x̂ + σ ε̂
        errors.append((how.alpha * how.x + how.sigma * how.eps - z).abs().max())
    return torch.stack(errors).max().item()


@identity("R109", "R91", title="the factors of drawn scenes and the truth of captions read back, share wrong", tolerance=0.0)
def factors_of_scenes_are_read_back() -> float:
    wrong = []
    for size in (16, 32):
        factors = draw_scenes(24, seed=size)
        pictures, others = render(factors, size), render(draw_scenes(24, seed=1 + size), size)
        captions = draw_captions(factors, size)
        wrong += [(read_scenes(pictures) != factors).double().mean(), 1 - true_of(pictures, captions)[0].double().mean()]
        if true_of(others, captions)[1].double().mean() > 0.2:  # a caption is not true of any picture
            return math.inf
    return torch.stack(wrong).max().item()


@identity("R87", title="samples of a trained conditional model against p(x|y), C2ST's area beyond ½", tolerance=0.05, slow=True)
def conditional_samples_are_of_their_class() -> float:
    _, whole = _world()
    x = torch.cat([draws(of_class(whole, k), 4000) for k in (0, 1)]).float()
    y = torch.arange(2).repeat_interleave(4000)
    model, worst = VDM(Real((2,)), DenoiserBackbone(hidden=(128, 128, 128)), condition=Labels(2)), 0.0
    fit(model, x, y, steps=3000, progress=False)
    for label in (0, 1):
        drawn = model.sample(2000, torch.tensor([label]), steps=64)
        worst = max(worst, abs(c2st(drawn, draws(of_class(whole, label), 2000))[0] - 0.5))
    return worst

"""Two sets of samples: what a perfect judge attains, what a p-value promises, and a game that no step size ends."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from likeli.contract import GenerativeModel
from likeli.data.builtin.toys import ring8
from likeli.evaluation.cross_fitted import logistic_statistic, neighbour_statistics
from likeli.evaluation.own_density import sampler_test
from likeli.evaluation.panel import two_sample_test
from likeli.evaluation.permutations import (
    kernel_statistics,
    kernels_for,
    kolmogorov_smirnov,
    label_weights,
    loudest,
    mean_statistics,
    permutation_p,
)
from likeli.evaluation.two_sample import classifier_test
from likeli.models.autoregressive import Autoregressive
from likeli.models.flow import Flow
from likeli.models.gmm import GMM
from likeli.models.independent import Independent
from likeli.probability.information import jensen_shannon
from likeli.random import seeded
from likeli.spaces import Real, Tokens
from likeli.theory.check import identity
from likeli.training import fit


def _tables() -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(2, 6, dtype=torch.float64).softmax(1))


@identity("R97", "I32", title="the best discriminator: E_p log D* + E_q log(1 − D*) = 2 JS(p, q) − 2 log 2", tolerance=1e-10)
def best_discriminator() -> float:
    """D* = p/(p + q), found by Newton's method on logits, not by its formula."""
    p, q = _tables()
    logit = torch.zeros_like(p)
    for _ in range(60):
        d = logit.sigmoid()
        logit = logit + (p * (1 - d) - q * d) / ((p + q) * d * (1 - d)).clamp(min=1e-3)
    value = (p * logit.sigmoid().log() + q * (-logit).sigmoid().log()).sum()
    return abs(value.item() - (2 * float(jensen_shannon(p, q).value) - 2 * math.log(2)))


@identity("R98", "I32", title="a classifier's held-out accuracy = ½ + ½ TV(p, q), in its standard errors", tolerance=4)
def accuracy_is_total_variation() -> float:
    p, q = _tables()
    a, b = (torch.eye(6)[torch.multinomial(t, 6000, replacement=True)] for t in (p, q))
    found = classifier_test(a, b, classifier="logistic")
    return abs(found.accuracy - 0.5 - 0.25 * (p - q).abs().sum().item()) / found.accuracy_stderr


@identity("R98", title="p of each permutation test, 500 equal sets: √500 · KS distance or z/2 of alarms", tolerance=2.2)
def p_values_are_uniform() -> float:
    """A distance of 2.2 has a chance of 1.3e-4, steps of 1/100 add up to 0.22; z of the alarms at 5 % of 4.4, of 1e-5."""
    runs = []
    for seed in range(500):
        rng = np.random.default_rng(seed)
        rows, w = rng.normal(size=(40, 2)), label_weights(rng.permutation(40) < 15, 99, seed)
        squared, t, _ = mean_statistics(rows, w)
        kernels = kernel_statistics(rows, w, kernels_for(rows))
        several = [np.stack([squared, t.max(0)]), kolmogorov_smirnov(rows, w), kernels[1:], neighbour_statistics(rows, w)[0]]
        runs.append([permutation_p(s) for s in (kernels[0], logistic_statistic(rows, w), *(loudest(s)[0] for s in several))])
    alarms = (np.array(runs) <= 0.05).sum(0)
    z = np.abs(alarms - 25) / math.sqrt(500 * 0.05 * 0.95)
    return max(float(z.max() / 2), *(math.sqrt(500) * float(stats.kstest(p, "uniform").statistic) for p in np.transpose(runs)))


@identity("R98", title="N(0, 1) against N(0, 3²): members that should fire and do not, or the mean's if it does", tolerance=0)
def means_are_blind_to_scale() -> float:
    found = two_sample_test(torch.randn(200, 1), 3 * torch.randn(200, 1), level=0.01, permutations=999)
    return float(sum(m.fired != (m.name != "mean") for m in found.members))


@identity("I2", "R98", title="samplers against their own exact density: −log₁₀ p of the worst of four", tolerance=2.999)
def samplers_draw_from_their_density() -> float:
    tokens = Tokens(5, 4)
    rows = torch.randint(4, (300, 5)).cumsum(1) % 4
    with seeded(0, "families"):
        models: list[tuple[GenerativeModel, Tensor]] = [
            (GMM(Real((2,)), 8), ring8().sample(500, 1)),
            (Flow(Real((2,))), ring8().sample(500, 1)),
            (Independent(tokens), rows),
            (Autoregressive(tokens), rows),
        ]
    for model, x in models:
        fit(model, x, steps=30, progress=False)
    return -math.log10(min(sampler_test(model, n=300, steps=8).p for model, _ in models))


@identity("R99", "I33", title="descent and ascent on f(x, y) = xy: ‖z_k‖ = (1 + η²)^{k/2} ‖z_0‖, relative", tolerance=1e-12)
def games_go_round() -> float:
    """Both step at once, by the gradient that autograd gives; every step size spirals outwards."""
    worst, eta = 0.0, 0.1
    x, y = torch.randn(2, dtype=torch.float64).unbind()
    start = torch.hypot(x, y)
    for k in range(1, 201):
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        dx, dy = torch.autograd.grad(x * y, (x, y))
        x, y = x - eta * dx, y + eta * dy
        worst = max(worst, abs((torch.hypot(x, y) / (start * (1 + eta**2) ** (k / 2))).item() - 1))
    return worst

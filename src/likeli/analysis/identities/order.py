"""What each family says of log p(x) keeps its word where the truth is known: on the average no model explains data of p
better than p does, whatever number it gives."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

import likeli.models
from likeli.analysis.check import identity
from likeli.analysis.estimators import importance, importance_bound
from likeli.analysis.likelihood import score
from likeli.core import GenerativeModel, Knows
from likeli.data.toys import Toy, markov, ppca_draw
from likeli.errors import InputError, Unsupported
from likeli.models.categorical_mixture import CategoricalMixture
from likeli.models.gmm import GMM
from likeli.models.independent import Independent
from likeli.models.ppca import PPCA
from likeli.models.vae import VAE
from likeli.observation import Gaussian
from likeli.random import seeded
from likeli.space import Binary, Real, Space, Tokens
from likeli.training import fit

QUICK = ("gmm", "ppca", "independent", "vae", "categorical_mixture")


@identity("R107", title="linear and VAE families on known truths: E[log p − their number] < 0 by, in s.e.", tolerance=4)
def quick_families_keep_their_order() -> float:
    return max(_excess(name, truth, space, steps=100) for name in QUICK for truth, space in _truths())


@identity("R107", title="every family on known truths: E[log p − its number] < 0 by, in s.e.", tolerance=4, slow=True)
def families_keep_their_order() -> float:
    ours = [name for name, cls in likeli.models.families().items() if cls.__module__.startswith("likeli.")]
    return max(_excess(name, truth, space, steps=100) for name in ours for truth, space in _truths())


def _truths() -> list[tuple[Toy, Space]]:
    return [(ppca_draw(4, 2), Real((4,))), (markov(6, 3), Tokens(6, 3))]


def _excess(name: str, truth: Toy, space: Space, steps: int) -> float:
    """Standard errors by which a family's number, on the average over fresh rows, is above the truth; 0 if it is not.

    For a family without a number: 0 if it refuses, infinite if it gives one after all.
    """
    try:
        with seeded(0, name):
            model = likeli.models.families()[name](space)
    except (InputError, Unsupported):
        return 0.0
    fit(model, truth.sample(2000, 1), steps=steps, progress=False)
    x = truth.sample(400, 2)
    if model.knows in (Knows.NOTHING, Knows.UNNORMALIZED):
        return math.inf if _has_unit(model, x) else 0.0
    found = list(score(model, x))
    value = torch.cat([part.value.double() for part in found])
    gap = truth.log_prob(x) - value
    return max(0.0, (-gap.mean() / gap.std() * math.sqrt(len(x))).item())


def _has_unit(model: GenerativeModel, x: Tensor) -> bool:
    try:
        model.log_likelihood(x).bits_per_dim()
    except Unsupported:
        return False
    return True


@identity("R37", "R107", title="fitted VAE on held-out rows: ELBO ≤ L_8 ≤ IS log p ≤ truth: violation in s.e.", tolerance=4)
def held_out_bounds_keep_their_order() -> float:
    truth = ppca_draw(4, 2)
    with seeded(0, "held out"):
        vae = VAE(Real((4,)), 2, hidden=(32,), head=Gaussian("learned"))
    fit(vae, truth.sample(3000, 1), steps=400, progress=False)
    x = truth.sample(200, 2)
    bounds = [importance_bound(vae, x, k=k, repeats=64 // k, seed=k).value.double() for k in (1, 8)]
    values = [*bounds, importance(vae, x, samples=256).likelihood.value.double(), truth.log_prob(x)]
    steps = [(a - b) for a, b in itertools.pairwise(values)]
    return max(0.0, *[(s.mean() / s.std() * math.sqrt(len(s))).item() for s in steps])


@identity("R1", "I2", title="families of symbols: Σ p(x) over every x = 1", tolerance=1e-10)
def every_symbol_counted() -> float:
    worst = 0.0
    cases = (Binary((8,)), torch.cartesian_prod(*[torch.arange(2)] * 8)), (Tokens(4, 3), markov(4, 3).every_sequence())
    for space, x in cases:
        rows = x[torch.randint(len(x), (200,))]
        mixture, independent = CategoricalMixture(space, 3), Independent(space)
        independent.fit_closed_form(rows)
        for _ in itertools.islice(mixture.em(rows), 5):
            pass
        masses = [model.log_likelihood(x).value.double().exp().sum().item() for model in (mixture, independent)]
        worst = max(worst, *[abs(mass - 1) for mass in masses])
    return worst


@identity("R9", "R12", title="a Gaussian's best mean and covariance are the sample's: d + d(d+1)/2 numbers", tolerance=1e-10)
def gaussian_maximum_likelihood() -> float:
    x = ppca_draw(4, 2).sample(500, 1)
    centred = x - x.mean(0)
    gmm, ppca = GMM(Real((4,)), 1, regularization=1e-14), PPCA(Real((4,)), 3)
    for _ in gmm.em(x):
        pass
    ppca.fit_closed_form(x)
    errors = [gmm.joint.means[0] - x.mean(0), gmm.joint[2][0] @ gmm.joint[2][0].T - centred.T @ centred / 500]
    counts = abs(gmm.free_parameters - (4 + 4 * 5 // 2)) + abs(ppca.free_parameters - gmm.free_parameters)
    return max(float(counts), *[e.abs().max().item() for e in errors])

"""Generators and discriminators: what the game's value says, what a code of few numbers can fill, which step to keep."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.data import load_data
from likeli.data.builtin.toys import gaussian, ring8
from likeli.evaluation.two_sample import sliced_wasserstein
from likeli.models.gan import GAN, AdversarialObjective
from likeli.random import seeded
from likeli.spaces import Real
from likeli.theory.check import identity
from likeli.training import fit


def _value(logit: Tensor, p: Tensor, q: Tensor, width: float) -> float:
    """∫ p log D + q log(1 − D) on an even grid."""
    return ((p * F.logsigmoid(logit) + q * F.logsigmoid(-logit)).sum() * width).item()


@identity("R97", "I32", title="a trained D against 2 JS − 2 log 2, in 0.01 nats: nearer than that and never above", tolerance=1)
def trained_discriminator() -> float:
    """N(0, 1) and N(1, 1.5²), the value of every D by quadrature, whose own error is below 1e-10."""
    x = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    p, q = (torch.distributions.Normal(m, s).log_prob(x) for m, s in ((0.0, 1.0), (1.0, 1.5)))
    best = _value(p - q, p.exp(), q.exp(), 0.005)
    model = GAN(Real((1,)), hidden=(32, 32), objective=AdversarialObjective("minimax", r1=0, r2=0)).double()
    adam = torch.optim.Adam(model.discriminator.parameters(), 1e-2)
    for step in range(200):
        real = torch.randn(512, 1, dtype=torch.float64)
        loss = model.discriminator_loss(real, 1 + 1.5 * torch.randn_like(real)).mean()
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
        adam.step()
    gap = best - _value(model.density_ratio(x[:, None]), p.exp(), q.exp(), 0.005)
    return gap / 0.01 if gap >= -1e-10 else math.inf


@identity("R101", title="rank of 100 draws' covariance for a linear generator of 3 numbers in 8 cells, less 3", tolerance=0)
def draws_of_a_line_have_its_rank() -> float:
    model = GAN(Real((8,)), latent_dim=3, hidden=()).double()
    values = torch.linalg.svdvals(model.sample(100).T.cov())
    return float((values > 1e-12 * values[0]).sum() - 3)


@identity("R101", title="rank of ∂G/∂z at 20 draws of a perceptron of 3 numbers in 8 cells: the worst, less 3", tolerance=0)
def draws_of_a_curve_lie_on_a_surface() -> float:
    """Around every draw the others lie on a surface of so many dimensions, which has no volume."""
    model = GAN(Real((8,)), latent_dim=3).double()
    z = torch.randn(20, 3, dtype=torch.float64)
    slopes = torch.func.vmap(torch.func.jacfwd(lambda one: model.generate(one[None])[0]))(z)
    values = torch.linalg.svdvals(slopes)
    return float((values > 1e-12 * values[:, :1]).sum(1).max() - 3)


@identity("R96", title="a generator of N(1, 1): relative error of mean and standard deviation", tolerance=0.05, slow=True)
def generator_of_a_normal() -> float:
    truth = gaussian(1)
    data = load_data(truth.sample(4000, 1))
    with seeded(0, "weights"):
        model = GAN(data.space)
    fit(model, data, steps=2000, progress=False)
    x = model.sample(20_000).double()
    return max(abs(x.mean().item() - 1), abs(x.std().item() - 1))


@identity("R100", title="ring, undamped game: distance to fresh rows of the step kept over the last's", tolerance=1, slow=True)
def the_step_kept_is_better_than_the_last() -> float:
    """Sliced Wasserstein distances, summed over two runs; the rows neither trained on nor used to choose."""
    truth, sums = ring8(), [0.0, 0.0]
    data, fresh = load_data(truth.sample(4000, 1)), truth.sample(4000, 2)
    for run in range(2):
        for keep in (True, False):
            with seeded(run, "weights"):
                model = GAN(data.space, objective=AdversarialObjective("non_saturating", r1=0, r2=0))
            rows = data if keep else data.split("train")[0]
            fit(model, rows, steps=800, seed=run, validate_every=50, ema=0, decay="none", betas=(0.5, 0.9), progress=False)
            sums[not keep] += sliced_wasserstein(model.sample(4000).double(), fresh)
    return sums[0] / sums[1]

"""Log p and samples: neither says the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from likeli.contract import GenerativeModel
from likeli.data.builtin.toys import ring8
from likeli.evaluation.side_by_side import score_samples
from likeli.models.gmm import GMM
from likeli.random import seeded
from likeli.spaces import Real
from likeli.theory.check import identity
from likeli.training import fit

SHARE = 0.01  # of p in the mixture with noise


def _models(cells: int = 8) -> tuple[GenerativeModel, Tensor]:
    """A mixture of two normals in some columns, fitted to rows of that law, and the rows."""
    with seeded(0, "two"):
        side = torch.randint(2, (1200, 1)) * 2.0 - 1
        x = side + 0.5 * torch.randn(1200, cells)
        model = GMM(Real((cells,)), 2)
    fit(model, x, progress=False)
    return model, x


def _noise(n: int, cells: int = 8) -> Tensor:
    return 10 * torch.randn(n, cells)


@identity("R98", "R108", title="0.01 p + 0.99 noise: a classifier tells its samples, 1 − area", tolerance=0.03)
def noise_costs_all_quality() -> float:
    """Every draw of the noise can be told, of the draws of p half: an area of 0.995 in the mean, for 4.61 nats at most."""
    model, x = _models()
    drawn = model.sample(400, seed=1)
    worse = torch.where(torch.rand(400, 1) < SHARE, drawn, _noise(400))
    found = score_samples(x[:400], x[400:800], {"p": drawn, "mixture": worse}, model.space)
    return 1 - found.scores["mixture"][0].value


@identity("R98", "R108", title="draws of p itself: area − ½, in its standard errors", tolerance=4)
def own_draws_are_not_told() -> float:
    model, x = _models()
    found = score_samples(x[:400], x[400:800], {"p": model.sample(400, seed=1)}, model.space)
    area = found.scores["p"][0]
    return (area.value - 0.5) / area.stderr


@identity("R108", title="rows by heart: not told apart, yet log p is below a normal's; 1 if not both", tolerance=0)
def good_samples_without_likelihood() -> float:
    """Training rows with noise of 10⁻³ of their spread, as a mixture of one component a row."""
    x = ring8().sample(800, 1)
    train, held = x[:400], x[400:]
    sigma = 1e-3
    drawn = train[torch.randperm(400)] + sigma * torch.randn(400, 2, dtype=train.dtype)
    area = score_samples(held, train, {"memory": drawn}, Real((2,))).scores["memory"][0]
    gap = (held[:, None] - train[None]).double().square().sum(2) / (2 * sigma**2)
    by_heart = (-gap).logsumexp(1) - math.log(400) - math.log(2 * math.pi * sigma**2)
    normal = torch.distributions.MultivariateNormal(train.double().mean(0), train.double().T.cov())
    told, worse = area.value - 0.5 > 4 * area.stderr, by_heart.mean() < normal.log_prob(held.double()).mean()
    return float(told or not bool(worse))

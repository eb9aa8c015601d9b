"""Cells that hide themselves: loss, draws and what training recovers, against quadrature of Gaussians times sigmoids."""

import math

import pytest
import torch

import likeli
from likeli.errors import InputError
from likeli.evaluation.imputation import UNCHECKED, impute
from likeli.latent.missingness import PROPOSALS, SelfMasking, Weighed
from likeli.models.vae import VAE, CoderBackbone, VariationalObjective
from likeli.random import seeded
from likeli.spaces import Pixels, Real, StudentT
from likeli.theory.truth import as_vae, fitted_ppca, linear_data

SLOPES = torch.tensor([2.0, -1.5, 0.7, 3.0, -0.4], dtype=torch.double)


@pytest.fixture(scope="module")
def problem():
    x = linear_data(400, 5, noise=2.0)
    ppca = fitted_ppca(x, 2)
    vae = as_vae(ppca)
    vae.mask_model = SelfMasking((5,), "self").double()
    with torch.no_grad():
        vae.mask_model.steepness.copy_(SLOPES)
        vae.mask_model.offset.copy_(torch.linspace(-1, 1, 5))
    holed = x[:3].clone()
    holed[0, [1, 3]], holed[1, 0] = math.nan, math.nan
    return ppca, vae, holed


def log_mask(vae, x, missing):
    return vae.mask_model(vae.space.to_model(x, vae.dtype), missing)


def hidden_by_quadrature(ppca, vae, holed, row):
    """log p(x_o, s), E[x_m|x_o, s] and its standard deviations, on a grid of 161 points a cell, 8 standard deviations wide."""
    truth, missing = ppca.conditional(holed), holed[row].isnan()
    mean, covariance = truth.mean[row][missing], truth.covariance[row][missing][:, missing]
    steps = torch.linspace(-8, 8, 161, dtype=torch.double)
    e = torch.cartesian_prod(*[steps] * len(mean)).reshape(-1, len(mean))
    whole = holed[row].expand(len(e), 5).clone()
    whole[:, missing] = mean + e @ torch.linalg.cholesky(covariance).mT
    weight = (-0.5 * e.square().sum(1) + log_mask(vae, whole, missing.expand_as(whole))).exp()
    mass = weight.sum() * (steps[1] - steps[0]) ** len(mean) / (2 * math.pi) ** (len(mean) / 2)
    weight = weight[:, None] / weight.sum()
    centre = (weight * whole[:, missing]).sum(0)
    spread = (weight * (whole[:, missing] - centre).square()).sum(0).sqrt()
    return ppca.log_likelihood(holed).value[row] + mass.log(), centre, spread


@pytest.mark.parametrize("row", [0, 1])
def test_draws_follow_the_conditional_given_which_cells_are_missing(problem, row):
    """800 draws from 800, at 5 standard errors of an effective sample of 1/(1/n + 1/ESS)."""
    ppca, vae, holed = problem
    found = impute(vae, holed[row : row + 1], 800, samples=800)
    _, centre, spread = hidden_by_quadrature(ppca, vae, holed, row)
    n = 1 / (1 / 800 + 1 / found.diagnostics.ess[0])
    assert n > 100
    draws = found.draws[:, 0, holed[row].isnan()]
    assert ((draws.mean(0) - centre).abs() / (spread / n.sqrt()) < 5).all()
    assert ((draws.std(0) / spread - 1).abs() * (2 * n).sqrt() < 5).all()
    assert UNCHECKED in found.note
    at_random = ppca.conditional(holed).mean[row][holed[row].isnan()]
    assert ((draws.mean(0) - at_random).abs() / (spread / n.sqrt()) > 7).any()  # and the mask matters here


@pytest.mark.parametrize("row", [0, 1, 2])
def test_proposals_that_learn_from_draws_stay_unbiased_and_waste_fewer(problem, row):
    """An encoder that is right of whole rows and wrong of one whose cells are hidden but the last."""
    ppca, _, holed = problem
    x = holed[row : row + 1].nan_to_num(0.0)
    x[0, :4] = math.nan
    vae, truth = as_vae(ppca), ppca.log_likelihood(x).value
    with seeded(row), torch.no_grad():
        proposed = [Weighed(vae, x, None, [x], 400)]
        for _ in range(2):
            proposed.append(Weighed(vae, x, None, [x, *proposed[-1].chosen(PROPOSALS - 1)], 50))
    for each in proposed:  # the delta method: log of a mean of K weights has variance 1/ESS − 1/K
        off = each.log_w.logsumexp(0) - math.log(400) - truth
        assert off.abs() < 5 * (1 / each.effective - 1 / 400).sqrt()
    assert proposed[-1].effective > 1.2 * proposed[0].effective


def test_the_loss_is_of_the_cells_and_of_which_are_missing(problem):
    """One weight is unbiased of p(x_o, s), and of a whole row under the exact posterior has no spread at all."""
    ppca, vae, holed = problem
    with seeded(0):
        log_w = -vae.loss(holed.repeat(20_000, 1)).detach().unflatten(0, (20_000, 3))
    for row in (0, 1):
        truth, w = hidden_by_quadrature(ppca, vae, holed, row)[0], log_w[:, row].exp()
        assert (w.mean() - truth.exp()).abs() < 5 * w.std() / math.sqrt(20_000)
    seen = torch.zeros(1, 5, dtype=torch.bool)
    whole = ppca.log_likelihood(holed[2:]).value + log_mask(vae, holed[2:], seen)
    assert torch.allclose(log_w[:, 2], whole.expand(20_000), rtol=1e-9)


def test_training_finds_what_was_hidden():
    """Column 0 hides where it is high, P = sigmoid(4 u): at random its hidden mean is missed, high finds most of the gap."""
    rows = torch.randn(3000, 1, generator=torch.Generator().manual_seed(0)) + 0.5 * torch.randn(
        3000, 4, generator=torch.Generator().manual_seed(1)
    )
    hidden = torch.rand(3000, generator=torch.Generator().manual_seed(2)) < torch.sigmoid(4 * rows[:, 0])
    holed = rows.clone()
    holed[hidden, 0] = math.nan
    data = likeli.load_data(holed, kind="real", fractions=(0.9, 0.1, 0))
    off = {}
    for why in ("at_random", "high"):
        objective = VariationalObjective(missingness=why, train_samples=5)
        with seeded(0, "weights"):
            model = VAE(data.space, 1, CoderBackbone((16,)), objective=objective)
        likeli.fit(model, data, steps=400, batch=128, progress=False, seed=0)
        off[why] = (impute(model, holed[hidden][:500], 20, samples=100).mean[:, 0] - rows[hidden][:500, 0]).mean().item()
        assert ("which cells are missing" in " ".join(model.notes)) == (why == "high")
    assert off["at_random"] < -0.15
    assert abs(off["high"]) < abs(off["at_random"]) / 2


@pytest.mark.parametrize(("kind", "sign"), [("high", 1), ("low", -1)])
def test_a_named_direction_cannot_turn(kind, sign):
    mask = SelfMasking((3,), kind)
    with torch.no_grad():
        mask.steepness.copy_(torch.tensor([-30.0, 0.0, 30.0]))
    assert (mask.slope * sign > 0).all()
    u, missing = torch.randn(7, 3), torch.rand(7, 3) < 0.5
    both = torch.stack([mask(u, missing), mask(u, ~missing)])
    laws = torch.distributions.Bernoulli(logits=mask.slope * u - mask.offset)
    assert torch.allclose(both[0], laws.log_prob(missing.float()).sum(1), atol=1e-5)
    assert torch.allclose(both[1], laws.log_prob((~missing).float()).sum(1), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: VariationalObjective(missingness="never"), "missingness"),
        (lambda: VariationalObjective(missingness="high", free_nats=0.1), "free_nats"),
        (lambda: VAE(Pixels((2, 2)), 2, objective=VariationalObjective(missingness="high")), "missingness"),
        (lambda: VAE(Real((3,)), 2, head=StudentT(), objective=VariationalObjective(missingness="self")), "missingness"),
    ],
)
def test_what_cannot_be_is_said_at_once(make, argument):
    with pytest.raises(InputError, match=f"^{argument}: expected"):
        make()

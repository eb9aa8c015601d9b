"""Draws of missing cells follow the exact conditional where it is known, and say so where they do not."""

import math

import pytest
import torch

from likeli.errors import InputError, Unsupported
from likeli.evaluation.imputation import impute
from likeli.models.hvae import HVAE, LadderBackbone
from likeli.models.vae import VAE, CoderBackbone
from likeli.random import seeded
from likeli.spaces import Labels, Real
from likeli.theory.truth import as_vae, fitted_ppca, linear_data


@pytest.fixture(scope="module")
def problem():
    x = linear_data(400, 5, noise=2.0)  # wide posteriors, which the encoder misses by little where cells are missing
    ppca = fitted_ppca(x, 2)
    holed = x[:3].clone()
    holed[0, [1, 3]], holed[1, 0], holed[2, :] = math.nan, math.nan, math.nan
    return ppca, as_vae(ppca), holed


def test_linear_models_draw_exactly(problem):
    ppca, _, holed = problem
    found = impute(ppca, holed, 7, seed=3)
    assert torch.equal(found.draws, ppca.sample_conditional(holed, 7, seed=3))
    assert found.diagnostics is None
    assert found.note == ""


def test_resampled_codes_give_the_exact_conditional(problem):
    """PPCA as a VAE, whose encoder sees 0 in the holes and is wrong there: 3000 draws from 3000 codes at 5 standard errors.

    A resampled draw repeats codes, so its error is that of an effective sample of 1/(1/n + 1/ESS)."""
    ppca, vae, holed = problem
    found = impute(vae, holed, 3000, samples=3000)
    truth = ppca.conditional(holed)
    n = 1 / (1 / 3000 + 1 / found.diagnostics.ess)
    assert (n > 100).all()
    for row in range(3):
        draws, missing = found.draws[:, row], holed[row].isnan()
        spread = truth.covariance[row].diagonal().sqrt()[missing]
        off = (draws.mean(0) - truth.mean[row])[missing].abs() / (spread / n[row].sqrt())
        assert (off < 5).all()
        wide = (draws.std(0)[missing] / spread - 1).abs() * (2 * n[row]).sqrt()
        assert (wide < 5).all()


def test_observed_cells_come_back_as_given_and_seeds_repeat(problem):
    _, vae, holed = problem
    first, again = impute(vae, holed, 4, samples=20, seed=1), impute(vae, holed, 4, samples=20, seed=1)
    assert torch.equal(first.draws, again.draws)
    known = ~holed.isnan()
    assert torch.equal(first.draws[2][known], holed[known])
    assert first.draws.isfinite().all()


def test_a_poor_encoder_is_complained_of(problem):
    ppca, _, holed = problem
    poor = as_vae(ppca)
    poor.encoder[-1].bias[:2] += 8 * ppca.posterior(holed[2:]).stddev[0]
    assert "cannot be called estimates" in impute(poor, holed, 2, samples=100).note


def test_labels_are_taken_and_wanted():
    with seeded(0):
        model = VAE(Real((3,)), 2, CoderBackbone((4,)), condition=Labels(2))
    holed = torch.zeros(4, 3)
    holed[:, 1] = math.nan
    assert impute(model, holed, 2, torch.arange(4) % 2, samples=5).draws.shape == (2, 4, 3)
    with pytest.raises(InputError, match="y: expected"):
        impute(model, holed)


def test_what_cannot_be_done_is_one_line():
    with pytest.raises(Unsupported, match="hvae cannot condition on some cells only"):
        impute(HVAE(Real((3,)), (2, 2), LadderBackbone(8)), torch.zeros(2, 3))
    model = VAE(Real((3,)), 2, CoderBackbone((4,)))
    with pytest.raises(InputError, match="n: expected"):
        impute(model, torch.zeros(2, 3), 0)
    with pytest.raises(InputError, match="x: expected"):
        impute(model, torch.zeros(2, 4))

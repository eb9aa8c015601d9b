"""A diffusion fills missing cells by a sampler of its posterior, against the conditional of a Gaussian in closed form."""

import math

import pandas
import pytest
import torch

import likeli
from likeli.diffusion import Multistep
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.restoration import MMPS, Replacement, TwistedSMC
from likeli.diffusion.schedule import LogLinear
from likeli.errors import InputError
from likeli.gaussian.missing import conditional
from likeli.random import seeded
from likeli.spaces import Binary, Labels, Pixels, Real, Tokens

F64 = torch.float64
HOLED = torch.tensor([[1.0, math.nan, 4.0, math.nan], [math.nan, 22.0, math.nan, -1.0]], dtype=F64)


def exact_gaussian():
    """A vdm whose denoiser is that of a correlated Gaussian, and its moments in the user's units."""
    space = Real((4,), mean=(0.0, 20.0, 3.0, -1.0), scale=(1.0, 2.0, 0.5, 1.0))
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(1)))[0]
    covariance, mean = (turn * torch.tensor([0.2, 0.5, 1.1, 2.2]).to(F64)) @ turn.T, torch.full((4,), 0.2, dtype=F64)
    model = likeli.VDM(space, noise=LogLinear(-13.3, 10.0))
    model.denoiser = MixtureDenoiser(LogLinear(-13.3, 10.0), torch.ones(1, dtype=F64), mean[None], covariance[None])
    scale = space.unit
    return model, space.from_model(mean), scale[:, None] * covariance * scale


@pytest.mark.parametrize(
    ("how", "bias"),
    [(MMPS(32, sampler=Multistep()), 0.02), (TwistedSMC(32, particles=600), 0.02), (None, 0.1)],
    ids=["mmps", "twisted_smc", "default"],
)
def test_a_diffusion_fills_from_the_gaussian_conditional(how, bias):
    """600 draws: means within 4.5 standard errors and what 32 steps err by (0.02 sd, or 0.1 with what guards a network).

    Variances as far, sd/√(n/2) being their error; draws of twisted SMC share ancestors, half as many as there are draws."""
    model, mean, covariance = exact_gaussian()
    found = likeli.impute(model, HOLED, 600, method=how, seed=3)
    truth = conditional(HOLED, torch.ones(1, dtype=F64), mean[None], torch.linalg.cholesky(covariance)[None])
    hole, std = HOLED.isnan(), truth.covariance.diagonal(dim1=1, dim2=2).sqrt()
    free = 300 if isinstance(how, TwistedSMC) else 600
    off = ((found.draws.mean(0) - truth.mean) / std)[hole].abs()
    assert off.max() < bias + 4.5 / math.sqrt(free)
    assert ((found.draws.std(0) / std)[hole] - 1).abs().max() < bias + 4.5 / math.sqrt(2 * free)
    prior = ((mean - truth.mean) / std)[hole].abs()
    assert prior.max() > 2 * (bias + 4.5 / math.sqrt(free))  # the known cells are heard
    assert torch.equal(found.draws[:, ~hole], HOLED[~hole].expand(600, -1))
    assert found.answer == ("asymptotically exact" if isinstance(how, TwistedSMC) else "approximate")
    assert ("share ancestors" in found.note) == isinstance(how, TwistedSMC)


def test_draws_are_of_their_row_whatever_the_rows_beside_it():
    model, *_ = exact_gaussian()
    all_missing = torch.full((1, 4), math.nan, dtype=F64)
    rows = torch.cat([HOLED, all_missing, HOLED[:1].nan_to_num(0.5)])
    how = Replacement(8)
    whole = likeli.impute(model, rows, 3, method=how).draws
    assert torch.allclose(likeli.impute(model, rows, 3, method=how, batch=1).draws, whole)
    assert torch.equal(whole[:, 3], rows[3].expand(3, -1))
    assert whole.isfinite().all()
    by_row = likeli.impute(model, rows, 3, method=how, by_row=True).draws
    again = likeli.impute(model, rows[[1, 0]], 3, method=how, by_row=True).draws
    assert torch.equal(again, by_row[:, [1, 0]])
    assert not torch.equal(whole[0], likeli.impute(model, rows, 3, method=how, seed=1).draws[0])


@pytest.mark.parametrize("space", [Pixels((3, 4), 16), Binary((12,)), Tokens(6, 5)], ids=repr)
@pytest.mark.parametrize("name", ["VDM", "DDPM", "ScoreSDE", "EDM", "FlowMatching"])
def test_every_family_fills_cells_of_symbols(space, name):
    with seeded(0):
        model = getattr(likeli, name)(space, network="mlp", hidden=(16,))
    x = torch.randint(space.symbols, (2, *space.shape), generator=torch.Generator().manual_seed(0))
    hole = torch.zeros_like(x, dtype=torch.bool)
    hole.flatten(1)[:, ::3] = True
    found = likeli.impute(model, x.masked_fill(hole, -1), 3, method=MMPS(4))
    assert torch.equal(found.draws[:, ~hole], x[~hole].expand(3, -1))
    assert ((found.draws >= 0) & (found.draws < space.symbols)).all()
    holed = x.double().masked_fill(hole, math.nan)
    assert torch.equal(likeli.impute(model, holed, 3, method=MMPS(4)).draws, found.draws)
    assert torch.equal(found.missing, hole)


def test_a_frame_keeps_its_index_types_and_other_columns():
    space = Real((2,), mean=(10.0, 0.0), scale=(3.0, 1.0), names=("age", "height"))
    model = likeli.FlowMatching(space, hidden=(8,))
    frame = pandas.DataFrame(
        {"age": pandas.array([8, None, 12], "Int64"), "height": [0.5, 0.1, None], "who": ["a", "b", "c"]}, index=[5, 3, 9]
    )
    with pytest.warns(UserWarning, match="left out, since the model does not know them: who"):
        found = likeli.impute(model, frame, 19, method=MMPS(4))
    low, high = found.interval(0.9)
    assert list(found.mean.index) == [5, 3, 9]
    assert list(found.mean["who"]) == ["a", "b", "c"]
    assert found.mean.notna().all().all()
    assert found.mean.loc[5, "age"] == 8
    assert (low.loc[9, "height"] <= found.mean.loc[9, "height"] <= high.loc[9, "height"])


def test_conditions_are_heard():
    model = likeli.FlowMatching(Real((2,)), condition=Labels(2))
    x = torch.tensor([[math.nan, 0.0]] * 2)
    assert likeli.impute(model, x, 2, torch.tensor([0, 1]), method=Replacement(2)).draws.shape == (2, 2, 2)
    with pytest.raises(InputError, match="y: expected a label"):
        likeli.impute(model, x, 2)


def test_bad_methods_are_refused():
    model, *_ = exact_gaussian()
    with pytest.raises(InputError, match="twisted_smc"):
        likeli.impute(model, HOLED, 2, method="twisted")
    with pytest.raises(InputError, match="method: expected nothing, since gmm has one way only"):
        likeli.impute(likeli.GMM(Real((4,)), 1), HOLED, 2, method="mmps")
    with pytest.raises(InputError, match="x: expected"):
        likeli.impute(likeli.VDM(Pixels((2, 2), 4)), torch.full((1, 2, 2), 7), 2)

"""Draws of missing cells follow the exact conditional where it is known, and say so where they do not."""

import math
from itertools import pairwise

import numpy as np
import pandas
import pytest
import torch
from scipy import stats

import likeli
from likeli.errors import InputError, Unsupported
from likeli.evaluation.imputation import impute
from likeli.models.categorical_mixture import CategoricalMixture
from likeli.models.gmm import GMM
from likeli.models.hvae import HVAE, LadderBackbone
from likeli.models.symbols import completions
from likeli.models.vae import VAE, CoderBackbone
from likeli.random import seeded
from likeli.spaces import Column, Labels, Real, Table
from likeli.spaces.frames import filled_frame
from likeli.theory.truth import as_vae, fitted_ppca, linear_data


@pytest.fixture(scope="module")
def problem():
    x = linear_data(400, 5, noise=2.0)  # wide posteriors, which the encoder misses by little where cells are missing
    ppca = fitted_ppca(x, 2)
    holed = x[:3].clone()
    holed[0, [1, 3]], holed[1, 0], holed[2, :] = math.nan, math.nan, math.nan
    return ppca, as_vae(ppca), holed


def test_linear_models_draw_exactly(problem):
    """Means within 4.5 standard errors of 4,000 draws, and nothing to doubt."""
    ppca, _, holed = problem
    found, truth, hole = impute(ppca, holed, 4000, seed=3), ppca.conditional(holed), holed.isnan()
    spread = truth.covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert ((found.draws.mean(0) - truth.mean) / (spread / math.sqrt(4000)))[hole].abs().max() < 4.5
    assert torch.allclose(found.mean, found.draws.mean(0))
    assert found.diagnostics is None
    assert found.note == ""


def test_resampled_codes_give_the_exact_conditional(problem):
    """PPCA as a VAE, whose encoder sees 0 in the holes and is wrong there: 1200 draws from 1200 codes at 5 standard errors.

    A resampled draw repeats codes, so its error is that of an effective sample of 1/(1/n + 1/ESS)."""
    ppca, vae, holed = problem
    found = impute(vae, holed, 1200, samples=1200)
    truth = ppca.conditional(holed)
    n = 1 / (1 / 1200 + 1 / found.diagnostics.ess)
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


def test_places_in_observed_intervals_are_drawn_too():
    """P(A | B) of two categorical columns under a mixture of Gaussians, by the masses of rectangles: 4.5 standard errors.

    The middle of B's interval in place of its places is off by more than that."""
    space = Table((Column("A", "categorical", categories=("a", "b", "c")), Column("B", "categorical", categories=("x", "y"))))
    model = GMM(space, 2)
    covariance = torch.tensor([[[1.0, 0.8], [0.8, 1.0]], [[0.5, -0.4], [-0.4, 0.6]]]).double()
    model.weights.copy_(torch.tensor([0.6, 0.4]))
    model.means.copy_(torch.tensor([[0.5, 0.4], [-0.3, 0.7]]))
    model.factor.copy_(torch.linalg.cholesky(covariance))
    cuts = [-9, *stats.norm.ppf([1 / 3, 2 / 3]), 9]
    laws = [stats.multivariate_normal(m, c) for m, c in zip(model.means.numpy(), covariance.numpy())]
    box = [[w * law.cdf([b, 9], lower_limit=[a, 0]) for a, b in pairwise(cuts)] for w, law in zip((0.6, 0.4), laws)]
    truth = np.sum(box, 0) / np.sum(box)
    row = torch.tensor([[math.nan, 1.0]]).double()
    found = impute(model, row, 4000, samples=1000, seed=1)
    n = 1 / (1 / 4000 + 1 / found.diagnostics.ess.item())
    shares = found.draws[:, 0, 0].long().bincount(minlength=3).numpy() / 4000
    assert (np.abs(shares - truth) < 4.5 * np.sqrt(truth * (1 - truth) / n)).all()
    assert found.note == ""
    middle = model.sample_conditional(row, 4000)[:, 0, 0].long().bincount(minlength=3).numpy() / 4000
    assert (np.abs(middle - truth) > 4.5 * np.sqrt(truth * (1 - truth) / n)).any()


def test_latent_classes_fill_from_the_exact_posterior():
    """P(x_0 | x_1, x_2) = Σ_k r_k p_k0, r from the observed symbols alone: χ² at false alarm 1e-3."""
    space = Table(tuple(Column(name, "categorical", categories=("p", "q", "r")) for name in "abc"))
    model = CategoricalMixture(space, 2)
    with seeded(1):
        model.log_pmf.copy_(torch.randn(2, 3, 3).double().mul(2).log_softmax(-1))
    model.log_weights.copy_(torch.tensor([0.3, 0.7]).log())
    r = (model.log_weights + model.log_pmf[:, 1, 2] + model.log_pmf[:, 2, 0]).softmax(0)
    truth = r @ model.log_pmf[:, 0].exp()
    found = impute(model, torch.tensor([[math.nan, 2, 0]]).double(), 4000)
    assert found.diagnostics is None
    assert stats.chisquare(found.draws[:, 0, 0].long().bincount(minlength=3), 4000 * truth.numpy()).pvalue > 1e-3
    assert (found.draws[:, 0, 1:] == torch.tensor([2.0, 0.0])).all()


def test_ninety_percent_intervals_hold_ninety_percent():
    """Of 1000 rows of a known mixture, one or two cells of each lost: false alarm 1e-4 (3.9 standard errors)."""
    truth = likeli.load_data("gmm_draw:dims=4,n=10").truth
    model = GMM.from_parameters(Real((4,)), truth.weights, truth.means, truth.covariances)
    x, rows = truth.sample(1000), torch.arange(1000)
    holed = x.clone()
    holed[rows, rows % 4] = math.nan
    holed[rows[::2], (rows[::2] + 1) % 4] = math.nan
    low, high = impute(model, holed, 99).interval(0.9)
    kept = x[rows, rows % 4]
    covered = ((low[rows, rows % 4] <= kept) & (kept <= high[rows, rows % 4])).double().mean().item()
    assert abs(covered - 0.9) < 3.9 * math.sqrt(0.09 / 1000)
    assert torch.equal(low[~holed.isnan()], x[~holed.isnan()])


def test_the_mean_is_that_of_the_users_units_where_the_scale_is_curved():
    """x = s·sinh(u) with u ~ N(m, 1) has E x = s·sinh(m)·√e, not s·sinh(m): 4.5 standard errors of 20,000 draws."""
    space = Real((2,), scale=(3.0, 1.0), stretch=(True, False))
    model = GMM(space, 1)
    model.means.copy_(torch.tensor([[0.7, 0.0]]))
    found = impute(model, torch.tensor([[math.nan, 1.0]]).double(), 20_000)
    draws = found.draws[:, 0, 0]
    truth = 3 * math.sinh(0.7) * math.exp(0.5)
    assert abs(found.mean[0, 0].item() - truth) < 4.5 * draws.std().item() / math.sqrt(20_000)
    assert abs(truth - 3 * math.sinh(0.7)) > 9 * draws.std().item() / math.sqrt(20_000)
    for ask in (model.moments, lambda: model.conditional(torch.zeros(1, 2))):
        with pytest.raises(Unsupported, match=r"real cells in the data's units: none in closed form"):
            ask()


def table_frame():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 120)
    frame = pandas.DataFrame(
        {
            "height": rng.normal(size=120).astype(np.float32) + kind,
            "age": pandas.array(rng.poisson(20 + 10 * kind), dtype="Int64"),
            "town": np.array([" Oslo", " Rome", " Bern"])[kind],
            "size": pandas.Categorical(np.array(["S", "M", "L"])[kind], categories=["S", "M", "L"], ordered=True),
            "owns": pandas.array(kind > 0, dtype="boolean"),
            "label": rng.normal(size=120),
        },
        index=[f"row {i}" for i in range(120)],
    )
    holed = frame.copy()
    for i, name in enumerate(["height", "age", "town", "size", "owns"]):
        holed.iloc[i::7, i] = None
    return holed


@pytest.mark.parametrize("family", ["gmm", "ppca", "categorical_mixture", "independent"])
def test_a_frame_comes_back_with_its_types_its_categories_and_its_other_columns(family):
    holed = table_frame()
    data = likeli.load_data(holed.drop(columns="label"))
    model = likeli.build({"class": family, "space": data.space}, likeli.GenerativeModel)
    likeli.fit(model, data, progress=False)
    shuffled = holed[["owns", "label", "age", "height", "town", "size"]]
    with pytest.warns(UserWarning, match="left out, since the model does not know them: label"):
        found = impute(model, shuffled, 39, samples=50)
    for frame in (found.completed(0), found.completed(38)):
        assert frame.dtypes.equals(shuffled.dtypes)
        assert frame.index.equals(shuffled.index)
        assert not frame.isna().any().any()
        assert set(frame["town"]) <= {" Oslo", " Rome", " Bern"}
        assert frame.where(shuffled.notna()).equals(shuffled.where(shuffled.notna()))
    gone = shuffled["age"].isna()
    ages = found.draws[:, torch.from_numpy(gone.to_numpy().copy()), data.space.names.index("age")]
    assert found.mean["age"][gone].astype(float).tolist() == pytest.approx(ages.mean(0).tolist())
    low, high = found.interval(0.9)
    assert (low["age"][gone] <= high["age"][gone]).all()
    assert low["town"].isna().equals(shuffled["town"].isna())
    cells = found.cells(0.9)
    assert len(cells) == shuffled.drop(columns="label").isna().sum().sum()
    towns = cells[cells["column"] == "town"].set_index("row")
    assert towns["value"].to_dict() == {i: v.strip() for i, v in found.mean["town"][shuffled["town"].isna()].items()}
    assert (towns["share"] > 1 / 3 - 1e-9).all()


def test_a_category_that_a_frame_does_not_show_is_written_by_its_name():
    frame = pandas.DataFrame({"size": pandas.Categorical([None, "S"], categories=["S"]), "n": [1.5, 2.5]})
    space = Table((Column("size", "categorical", categories=("L", "S")), Column("n")))
    filled = filled_frame(frame, space, torch.tensor([[0.0, 1.5], [1.0, 2.5]]), torch.tensor([[True, False], [False, False]]))
    assert filled["size"].tolist() == ["L", "S"]
    assert list(filled["size"].cat.categories) == ["S", "L"]


def test_too_few_draws_for_an_interval_are_refused(problem):
    found = impute(problem[0], problem[2], 18)
    with pytest.raises(InputError, match=r"n: expected at least 19 draws for an interval of 0\.9, got 18"):
        found.interval(0.9)


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


def test_rows_with_as_many_holes_are_drawn_together_and_come_back_in_their_places(monkeypatch):
    monkeypatch.setattr("likeli.models.symbols.DRAWN", 8)
    x = torch.arange(24.0).reshape(6, 4)
    x[[0, 0, 0, 2, 3, 5, 5, 5], [0, 1, 3, 2, 0, 1, 2, 3]] = math.nan
    blocks = []

    def draw(given, y):
        blocks.append(sorted(set(given.isnan().sum(1).tolist())))
        return torch.where(given.isnan(), 100.0 + y[:, None], given)

    found = completions(draw, x, torch.arange(6.0), 4)
    assert blocks == [[0], [1], [3]]
    assert torch.equal(found, torch.where(x.isnan(), 100.0 + torch.arange(6.0)[:, None], x).expand(4, -1, -1))

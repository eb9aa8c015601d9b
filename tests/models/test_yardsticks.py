"""Independent cells and mixtures of categoricals: exact masses by enumeration, ascent, draws, and the floor on digits."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, stats
from sklearn.datasets import load_digits

import likeli
from likeli.errors import InputError, Unsupported
from likeli.models.categorical_mixture import CategoricalMixture
from likeli.models.independent import Independent
from likeli.spaces import Binary, Column, Counts, Marginal, Pixels, Real, Table, Tokens

SPACES = [Binary((4,)), Pixels((2, 2), 3), Tokens(3, 4), Pixels((2,), 12)]


def everything(space):
    """All examples of a small space."""
    symbols = space.vocab if isinstance(space, Tokens) else space.levels
    return torch.tensor(list(itertools.product(range(symbols), repeat=space.dimensions))).reshape(-1, *space.shape)


def rows_of(space, n=200, seed=0):
    """Rows from two clusters, so that a mixture has something to find."""
    rng, whole = np.random.default_rng(seed), everything(space)
    weights = rng.dirichlet(np.full(len(whole), 0.3))
    return whole[torch.from_numpy(rng.choice(len(whole), n, p=weights))]


def fitted(cls, space, x, **options):
    model = cls(space, **options)
    if cls is Independent:
        model.fit_closed_form(x)
    else:
        model.trace = list(model.em(x))
    return model


MODELS = [(Independent, {}), (CategoricalMixture, {"components": 3})]


@pytest.mark.parametrize(("cls", "options"), MODELS)
@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.kind() + str(s.shape))
def test_the_mass_sums_to_one(cls, options, space):
    model = fitted(cls, space, rows_of(space), **options)
    result = model.log_likelihood(everything(space))
    assert (result.knows.value, result.measure) == ("exact", "mass")
    assert result.value.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("cls", "options"), MODELS)
@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.kind() + str(s.shape))
def test_the_next_symbols_pmf_is_the_ratio_of_enumerated_masses(cls, options, space):
    """Σ_i log P(x_i | x_<i) = log P(x), and each pmf sums to one and looks at earlier cells only."""
    model, x = fitted(cls, space, rows_of(space), **options), rows_of(space, 20, seed=1)
    pmfs = [model.next_log_pmf(x, i) for i in range(space.dimensions)]
    flat = x.flatten(1)
    chain = sum(pmf.gather(1, flat[:, i : i + 1])[:, 0] for i, pmf in enumerate(pmfs))
    assert (chain - model.log_likelihood(x).value).abs().max() < 1e-12
    assert all((pmf.logsumexp(1)).abs().max() < 1e-12 for pmf in pmfs)
    other = torch.cat([flat[:, :1], flat[:, 1:].flip(0)], 1).reshape(x.shape)
    assert torch.equal(model.next_log_pmf(other, 1), pmfs[1])


@pytest.mark.parametrize(("cls", "options"), MODELS)
@pytest.mark.parametrize("space", SPACES[:3], ids=lambda s: s.kind())
def test_draws_have_the_mass(cls, options, space):
    """Chi-square over all examples expected at least five times, 20,000 draws, level 1e-4."""
    model, whole = fitted(cls, space, rows_of(space), **options), everything(space)
    mass = model.log_likelihood(whole).value.exp().numpy()
    drawn = model.sample(20_000, seed=4).flatten(1).long()
    symbols = int(whole.max()) + 1
    code = (drawn * symbols ** torch.arange(drawn.shape[1] - 1, -1, -1)).sum(1)
    seen, expected = torch.bincount(code, minlength=len(whole)).numpy(), 20_000 * mass
    common = expected >= 5
    f_seen, f_expected = np.append(seen[common], seen[~common].sum()), np.append(expected[common], expected[~common].sum())
    keep = f_expected > 0
    assert stats.chisquare(f_seen[keep], f_expected[keep] * f_seen.sum() / f_expected.sum()).pvalue > 1e-4
    assert model.space.check(model.sample(3)).shape == (3, *space.shape)


def test_independent_is_smoothed_counting():
    model = fitted(Independent, Tokens(1, 3), torch.tensor([[0], [0], [1]]))
    assert model.cells.log_pmf[0].exp().tolist() == pytest.approx([2.5 / 4.5, 1.5 / 4.5, 0.5 / 4.5])


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.kind() + str(s.shape))
def test_em_climbs_its_objective(space):
    """log-likelihood + log prior never falls; with almost no prior the log-likelihood itself does not."""
    x = rows_of(space)
    model = CategoricalMixture(space, 4, smoothing=1e-9, tol=0.0, max_iter=40)
    assert np.diff(list(model.em(x))).min() > -1e-9
    model, objective = CategoricalMixture(space, 4, tol=0.0, max_iter=40), []
    for _ in model.em(x):
        objective.append(model.progress[1].item())
    assert np.diff(objective).min() > -1e-9


def test_the_bound_after_the_e_step_is_the_log_likelihood():
    space = SPACES[1]
    x = rows_of(space)
    model = fitted(CategoricalMixture, space, x, components=3)
    r = model.responsibilities(x)
    joint = torch.cat([j for _, j in model.log_joint(x)])
    assert ((r * (joint - r.log())).sum(1) - model.log_likelihood(x).value).abs().max() < 1e-10


def test_one_component_is_independent_cells():
    """With the prior a shadow and ½ a count, both are the frequencies."""
    space = SPACES[1]
    x = rows_of(space, 500)
    one = fitted(CategoricalMixture, space, x, components=1, smoothing=1e-9)
    cells = fitted(Independent, space, x, smoothing=1e-9)
    assert (one.log_likelihood(x).value - cells.log_likelihood(x).value).abs().max() < 1e-7


def test_few_and_many_symbols_are_counted_alike():
    """Cells of 12 levels that only use 3 give the same fit as cells of 3 (looked up in one, one-hot products in the other)."""
    x = rows_of(Pixels((2, 2), 3))
    fits = [fitted(CategoricalMixture, Pixels((2, 2), levels), x, components=3, smoothing=1e-6) for levels in (3, 12)]
    start = fits[1].log_pmf.clone()
    start[..., :3] = fits[0].log_pmf
    fits[1].log_pmf.copy_(start)
    fits[1].log_weights.copy_(fits[0].log_weights)
    assert (fits[0].log_likelihood(x).value - fits[1].log_likelihood(x).value).abs().max() < 1e-12
    r = fits[0].responsibilities(x)
    counts = [fit.count(x.flatten(1), r) for fit in fits]
    assert (counts[0] - counts[1][..., :3]).abs().max() < 1e-12


def test_a_resumed_fit_is_the_same_fit():
    space = SPACES[1]
    x, options = rows_of(space), {"components": 3, "tol": 0.0, "max_iter": 9}
    whole, half, again = (CategoricalMixture(space, **options) for _ in range(3))
    trace = list(whole.em(x))
    first = list(itertools.islice(half.em(x), 4))
    again.load_state_dict(half.state_dict())
    assert first + list(again.em(x, start=False)) == trace


def test_the_yardsticks_on_digits():
    """1437/360 rows: independent pixels near 2.42 bits/dim, thirty components near 2.15 (splits differ by some 0.03)."""
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(load_digits().images).to(torch.uint8)[order]
    space = Pixels((8, 8), 17)
    cells, mixture = fitted(Independent, space, x[:1437]), fitted(CategoricalMixture, space, x[:1437])
    bits = [m.log_likelihood(x[1437:]).bits_per_dim().mean().item() for m in (cells, mixture)]
    assert bits[0] == pytest.approx(2.42, abs=0.04)
    assert bits[1] == pytest.approx(2.15, abs=0.04)


def test_independent_reals_are_normals():
    """Against scipy, in the user's units, with missing cells left out."""
    rng = np.random.default_rng(0)
    x = rng.normal([1.0, -5.0, 100.0], [1.0, 0.1, 30.0], size=(200, 3))
    x[rng.random(x.shape) < 0.2] = np.nan
    model = Independent(Real((3,), (0.0, 1.0, 50.0), (1.0, 2.0, 10.0)))
    model.fit_closed_form(torch.from_numpy(x))
    truth = np.nan_to_num(stats.norm(np.nanmean(x, 0), np.nanstd(x, 0)).logpdf(x)).sum(1)
    assert np.abs(model.log_likelihood(x).value.numpy() - truth).max() < 1e-9
    s = model.sample(8000).numpy()
    error = np.nanstd(x, 0) / math.sqrt(8000)
    assert np.abs((s.mean(0) - np.nanmean(x, 0)) / error).max() < 4.5


def test_independent_columns_of_a_table():
    """A real, an integer and a categorical column, with missing cells: histograms by numpy, masses that sum to one."""
    ends = (-6.0, 0.0, 2.0, 5.0, 11.0)
    real = Marginal(ends[:-1], ends[1:], (0.2, 0.3, 0.3, 0.2), 1e-3)
    whole = Marginal((-4.0, 9.0, 10.0), (8.0, 9.0, 24.0), (0.3, 0.2, 0.5), 1e-3)
    numbers = Column("a", marginal=real), Column("b", "integer", marginal=whole)
    columns = (*numbers, Column("c", "categorical", categories=("x", "y")))
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(2, 2, 100), rng.normal(10, 4, 100).round(), (rng.random(100) < 0.3).astype(float)], 1)
    x[::7, 0], x[::5, 1], x[::9, 2] = np.nan, np.nan, np.nan
    model = Independent(Table(columns))
    model.fit_closed_form(torch.from_numpy(x))
    result = model.log_likelihood(x)
    ones, n = np.nansum(x[:, 2]), (~np.isnan(x[:, 2])).sum()

    def histogram(v, law, edges, sizes):
        seen = v[~np.isnan(v)]
        p = (np.histogram(seen, edges)[0] + 0.5) / (len(seen) + len(sizes) / 2)
        inner = np.array(law.mass) - law.escape / 2 * np.isin(np.arange(len(sizes)), [0, len(sizes) - 1])
        k = (np.searchsorted(edges, np.nan_to_num(v), side="right") - 1).clip(0, len(sizes) - 1)
        return np.where(np.isnan(v), 0, np.log(p * inner / law.mass / sizes)[k])

    parts = [
        histogram(x[:, 0], real, np.array(ends), np.diff(ends)),
        histogram(x[:, 1], whole, np.array([-4, 9, 10, 25]), np.array([13, 1, 15])),
        np.where(x[:, 2] == 1, np.log((ones + 0.5) / (n + 1)), np.log((n - ones + 0.5) / (n + 1))),
    ]
    parts[2][np.isnan(x[:, 2])] = 0
    assert result.measure == "mixed"
    assert np.abs(result.value.numpy() - sum(parts)).max() < 1e-9
    rows = np.stack([np.full(29, np.nan), np.arange(-4.0, 25.0), np.full(29, np.nan)], 1)
    beyond = np.array([[np.nan, -5.0, np.nan], [np.nan, 25.0, np.nan]])  # Σ_y≥1 of a tail is its first mass times span + 1
    total = model.log_likelihood(rows).value.exp().sum() + 30 * model.log_likelihood(beyond).value.exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)
    far = np.array([[np.nan, 4e4, np.nan], [np.nan, -4e4, np.nan]])
    assert model.log_likelihood(far).value.isfinite().all()
    s = model.sample(2000)
    assert model.space.check(s).shape == (2000, 3)
    assert s[:, 2].mean().item() == pytest.approx((ones + 0.5) / (n + 1), abs=4.5 * 0.5 / math.sqrt(2000))


def test_a_latent_class_mixture_of_a_table_is_the_sum_over_its_classes():
    """log p(x) against Σ_k w_k ∏_i p_ki by hand, missing cells left out; and it finds two classes that columns do not show."""
    rng = np.random.default_rng(0)
    z = rng.random(1000) < 0.5
    columns = {"n": rng.poisson(np.where(z, 2, 9)), "r": rng.normal(np.where(z, 0, 3), 1), "c": np.where(z, "u", "v")}
    frame = pd.DataFrame(columns)
    frame.loc[::11, "c"] = None
    data = likeli.load_data(frame)
    model = CategoricalMixture(data.space, components=2)
    likeli.fit(model, data, progress=False)
    x = data.split("test")[0][:20]
    codes, within = data.space.coding.symbols(x), data.space.coding.log_within(x)
    for i in range(len(x)):
        pmf = [[model.log_pmf[k, j, c].exp().item() for j, c in enumerate(codes[i]) if c >= 0] for k in range(2)]
        p = [w.exp().item() * math.prod(each) for w, each in zip(model.log_weights, pmf)]
        expected = math.log(sum(p)) + sum(w.item() for w, v in zip(within[i], x[i]) if v == v)
        assert model.log_likelihood(x[i : i + 1]).value.item() == pytest.approx(expected, rel=1e-9)
    yardstick = Independent(data.space)
    likeli.fit(yardstick, data, progress=False)
    gain = likeli.evaluate(model, data).nats - likeli.evaluate(yardstick, data).nats
    assert gain > 0.8  # of the 2 log 2 nats that three columns of one class share, less what the small sample costs


def test_refusals():
    with pytest.raises(Unsupported, match="finitely many symbols"):
        CategoricalMixture(Counts((3,)))
    with pytest.raises(Unsupported, match="finitely many symbols"):
        CategoricalMixture(Real((3,)))
    with pytest.raises(Unsupported, match="pmf for each symbol"):
        Independent(Real((3,))).next_log_pmf(torch.zeros(1, 3), 0)
    with pytest.raises(InputError, match="components: expected at most 5"):
        list(CategoricalMixture(Binary((3,)), 6).em(torch.zeros(5, 3)))
    with pytest.raises(InputError, match="components"):
        CategoricalMixture(Binary((3,)), 0)
    for cls in (Independent, CategoricalMixture):
        with pytest.raises(InputError, match="smoothing"):
            cls(Binary((3,)), smoothing=0.0)


def test_counts_are_the_negative_binomials_of_highest_likelihood():
    """scipy's law at its optimum, and Poisson's, which one more number fits better by ½χ²₁/n: 0.005 nats in 1 of 600 seeds."""
    drawn = [law.rvs(size=1000, random_state=seed) for seed, law in enumerate((stats.nbinom(2, 0.3), stats.poisson(4)))]
    rows = np.column_stack(drawn)
    model = Independent(Counts((2,)))
    likeli.fit(model, rows, progress=False)
    got = model.log_likelihood(rows).value
    mean = rows.mean(0)
    law = lambda t: stats.nbinom.logpmf(rows[:, 0], np.exp(t), np.exp(t) / (np.exp(t) + mean[0]))  # noqa: E731
    best = optimize.minimize_scalar(lambda t: -law(t).sum(), bounds=(-5, 5), method="bounded").x
    truth = law(best) + stats.poisson.logpmf(rows[:, 1], mean[1])
    assert got.mean().item() == pytest.approx(truth.mean(), abs=0.005)
    drawn = model.sample(4000, seed=3).double()
    spread = drawn.std(0) / 4000**0.5
    assert ((drawn.mean(0) - torch.from_numpy(mean)).abs() < 4 * spread).all()  # false alarms: 1 in 8,000


def test_a_weight_of_counts_is_a_repeated_row():
    rng = np.random.default_rng(0)
    rows, weight = rng.negative_binomial(2, 0.3, (60, 2)), rng.integers(0, 4, 60)
    fits = [Independent(Counts((2,))) for _ in range(2)]
    fits[0].fit_closed_form(torch.from_numpy(rows), sample_weight=weight)
    fits[1].fit_closed_form(torch.from_numpy(rows.repeat(weight, 0)))
    assert (fits[0].cells.log_dispersion - fits[1].cells.log_dispersion).abs().max() < 1e-6
    assert (fits[0].cells.log_mean - fits[1].cells.log_mean).abs().max() < 1e-12

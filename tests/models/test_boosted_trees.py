"""Boosted trees column by column: a distribution, the trees of scikit-learn, and draws of it."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

import likeli
from likeli import checkpoint
from likeli.errors import CheckpointError, InputError, Unsupported
from likeli.gaussian import baseline
from likeli.gaussian.baseline import JointGaussian, log_odds
from likeli.models.boosted_trees import BoostedTrees
from likeli.probability.boosting import Asked, Binned, grown_trees
from likeli.spaces import Column, Real, Table
from likeli.spaces.marginal import Marginal
from likeli.spaces.questions import Questions

NAMES = ("a", "b", "c")


def rows(n=900, seed=0):
    """A name that the others depend on, a spiked whole number, and a real: (n, 3)."""
    rng = np.random.default_rng(seed)
    a = rng.integers(3, size=n)
    b = np.where(rng.random(n) < 0.6, 0, a * 4 + rng.integers(4, size=n))
    c = rng.normal(a - (b > 0), 0.3)
    return np.stack([a, b, c], 1).astype(float)


def table(x):
    return Table((
        Column("a", "categorical", categories=NAMES, marginal=Marginal.of_codes(x[:, 0], 3)),
        Column("b", "integer", marginal=Marginal.found(x[:, 1], True)),
        Column("c", "real", marginal=Marginal.found(x[:, 2], False)),
    ))  # fmt: skip


@pytest.fixture(scope="module", params=["any", "natural"])
def fitted(request):
    x = rows()
    model = BoostedTrees(table(x), order=request.param, rounds=30)
    likeli.fit(model, torch.tensor(x), progress=False)
    return model


def test_trees_answer_as_scikit_learn_s_do():
    rng = np.random.default_rng(0)
    x = np.where(rng.random((900, 4)) < 0.2, np.nan, rng.normal(size=(900, 4)))
    y, held = np.nan_to_num(x[:, 0]) * np.nan_to_num(x[:, 1]) + rng.normal(size=900) > 0.3, slice(600, 900)
    model = BoostedTrees(Table((Column("y", "categorical", categories=("n", "p")), *(Column(f"x{i}") for i in range(4)))))
    base = float(np.log(y[:600].mean() / (1 - y[:600].mean())))
    parts = [Asked(np.arange(len(v)), v, np.ones(len(v)), np.full(len(v), base)) for v in (y[:600], y[held])]
    trees = grown_trees(Binned.of(x[:600], x[held], 0), *parts, rounds=40, leaves=8, rate=0.1, patience=5)
    theirs = HistGradientBoostingClassifier(
        early_stopping=False, l2_regularization=1.0, max_iter=40, max_leaf_nodes=8, random_state=0
    )
    theirs.fit(x[:600], y[:600])
    stages = [f.ravel() for f in theirs.staged_decision_function(x)]
    loss = [parts[1].loss(f[held]) for f in stages]
    assert len(trees) == np.argmin(loss[: len(trees) + 5]) + 1 > 3
    model.leaves, model.order = 8, "natural"  # features are columns as they stand
    model._append(0, trees, [len(trees)])
    model.base[0], model.escape[0] = base, 0.0
    seen, question = torch.tensor(np.column_stack([x, np.zeros(900)])), torch.zeros(900, dtype=torch.int64)
    found = model._log_answer(seen, torch.arange(900), question, *torch.zeros(2, 900).double(), earlier=False)
    np.testing.assert_allclose((found[1] - found[0]).numpy(), stages[len(trees) - 1], rtol=1e-6, atol=1e-6)


def gaussian(n, seed=0, d=4):
    """Rows of a Gaussian whose columns depend on each other strongly, and its covariance."""
    a = np.random.default_rng(7).normal(size=(d, d))
    covariance = a @ a.T + 0.1 * np.eye(d)
    return np.random.default_rng(seed).multivariate_normal(np.zeros(d), covariance, n), covariance


def test_the_gaussian_foretells_as_its_formula_does():
    x, _ = gaussian(500)
    x[::3, 1] = x[::4, 2] = np.nan
    joint = JointGaussian(table_of_reals(x))
    joint.fit(torch.tensor(x), torch.ones(500), 0)
    z = joint.values(torch.tensor(x))
    mean, spread = (v.numpy() for v in joint.foretell(z, 3, earlier=True))
    z = z.numpy()
    mu, sigma = joint.mean.numpy(), joint.covariance.numpy()
    for i in (0, 1, 3, 12):
        s = np.flatnonzero(~np.isnan(z[i, :3]))
        beta = np.linalg.solve(sigma[np.ix_(s, s)], sigma[s, 3])
        np.testing.assert_allclose(mean[i], mu[3] + beta @ (z[i, s] - mu[s]), rtol=1e-9)
        np.testing.assert_allclose(spread[i], np.sqrt(sigma[3, 3] - beta @ sigma[s, 3]), rtol=1e-9)
    ends = torch.tensor([[-np.inf, 0.3, np.inf], [-1.0, 0.5, 2.0], [5.0, 6.0, 7.0]], dtype=torch.float64)
    odds = log_odds(ends, *torch.tensor([[0.1, 0.2, 0.0], [1.0, 0.5, 1.0]], dtype=torch.float64))
    law = [stats.norm(0.1, 1.0), stats.norm(0.2, 0.5), stats.norm(0.0, 1.0)]
    for one, (low, cut, high), f in zip(odds, ends.numpy(), law):
        assert one.item() == pytest.approx(np.log((f.sf(cut) - f.sf(high)) / (f.sf(low) - f.sf(cut))), rel=1e-9)


def table_of_reals(x):
    columns = [Column(f"x{i}", marginal=Marginal.found(v[~np.isnan(v)], False)) for i, v in enumerate(x.T)]
    return Table(tuple(columns)).coding


def test_few_rows_of_dependent_reals_are_known_nearly_as_their_gaussian_is(monkeypatch):
    (x, covariance), (new, _) = gaussian(300), gaussian(1000, 1)
    data = likeli.load_data(x, kind="real", fractions=(0.9, 0.1, 0))
    truth = stats.multivariate_normal(np.zeros(4), covariance).logpdf(new).mean()
    found = {}
    for linear in (True, False):
        monkeypatch.setattr(baseline, "WIDEST", baseline.WIDEST if linear else 0)
        model = BoostedTrees(data.space, "natural", rounds=20)
        likeli.fit(model, data, progress=False)
        found[linear] = model.log_likelihood(torch.tensor(new)).value.mean().item()
        assert model.features == 4 * linear
    assert found[False] + 0.5 < found[True] < truth
    assert truth - found[True] < 0.5 * (truth - found[False])


def test_questions_lead_to_every_cell_and_halve_the_mass():
    x = rows()
    coding = table(x).coding
    asked = Questions.of(coding)
    for j, size in enumerate(coding.sizes):
        share = torch.where(asked.path % 2 == 1, asked.share[asked.path // 2], 1 - asked.share[asked.path // 2])
        mass = share.where(asked.path >= 0, 1.0)[j, :size].prod(1)
        torch.testing.assert_close(mass, coding.mass[j, :size], rtol=1e-9, atol=1e-12)
        halved = asked.share[asked.column == j]
        assert len(halved) == size - 1
    assert (asked.path[1, 0] >= 0).sum() == 1  # the spike is one answer away


def test_it_is_a_distribution_whatever_is_missing(fitted):
    space, coding = fitted.space, fitted.coding
    middles = [coding.middles[j, :k] for j, k in enumerate(coding.sizes)]
    everything = torch.cartesian_prod(*middles[:2], middles[2][:1])
    everything[:, 1] = everything[:, 1].ceil()
    cells = everything.clone()
    cells[:, 2] = torch.nan  # the last column is left out, which sums over it
    width = (coding.size * 1.0)[1, coding.symbols(cells)[:, 1]]
    inside = (coding.mass[1] / coding.inner[1])[coding.symbols(cells)[:, 1]]  # the outermost cells lead on into tails
    total = (fitted.log_likelihood(cells).value.exp() * width * inside).sum()
    assert total.item() == pytest.approx(1, abs=1e-9)
    one = torch.tensor([[1.0, 4.0, 0.0]]).double().repeat(coding.sizes[2], 1)
    one[:, 2] = middles[2]
    k = coding.symbols(one)[:, 2]
    given = one[:1].clone()
    given[:, 2] = torch.nan
    density = (fitted.log_likelihood(one).value - fitted.log_likelihood(given).value).exp()
    assert (density * coding.size[2, k] * coding.mass[2, k] / coding.inner[2, k]).sum().item() == pytest.approx(1, abs=1e-9)
    far = torch.tensor([[0.0, 10**6, 1e6]]).double()
    assert fitted.log_likelihood(far).value.isfinite().all()
    assert space.measure == fitted.log_likelihood(far).measure == "mixed"


def test_it_learns_what_independent_columns_cannot(fitted):
    x = torch.tensor(rows(seed=1))
    alone = likeli.Independent(fitted.space)
    alone.fit_closed_form(torch.tensor(rows()))
    ours, theirs = (m.log_likelihood(x).value for m in (fitted, alone))
    # three equal names tell of the whole number's sign and of the real's mean: at least half a nat of each
    assert (ours - theirs).mean() > 1.0


def test_draws_are_of_its_own_probabilities(fitted):
    drawn = fitted.sample(1000, seed=3)
    assert torch.equal(fitted.sample(70, seed=3), drawn[:70])
    names, holes = torch.arange(3.0).double()[:, None].expand(3, 3).clone(), torch.full((3, 2), torch.nan).double()
    names[:, 1:] = holes
    p = fitted.log_likelihood(names).value.exp().numpy()
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert stats.chisquare(np.bincount(drawn[:, 0].long(), minlength=3), 1000 * p).pvalue > 1e-3
    spike = torch.tensor([[1.0, 0.0, torch.nan]]).double()
    share = (fitted.log_likelihood(spike).value - fitted.log_likelihood(names[1:2]).value).exp().item()
    seen = drawn[drawn[:, 0] == 1, 1] == 0
    assert stats.binomtest(int(seen.sum()), len(seen), share).pvalue > 1e-3
    assert drawn[:, 1].min() >= 0 and drawn[:, 1].max() <= rows()[:, 1].max()


def test_known_cells_come_first_or_are_refused(fitted):
    held = torch.tensor([torch.nan, 5.0, torch.nan]).double()
    if fitted.order == "natural":
        with pytest.raises(Unsupported, match="order any"):
            fitted.sample(2, given=held)
        first = torch.tensor([2.0, torch.nan, torch.nan]).double()
        assert (fitted.sample(8, given=first)[:, 0] == 2).all()
        return
    drawn = fitted.sample(300, given=held, seed=1)
    assert (drawn[:, 1] == 5).all()
    assert (drawn[:, 0] == 1).double().mean() > 0.8  # 4 to 7 belong to the second name
    filled = likeli.impute(fitted, held[None], n=99, seed=2)
    assert filled.diagnostics is None
    assert (filled.draws[:, 0, 0] == 1).double().mean() > 0.8


def test_saved_loaded_resumed_to_the_bit(tmp_path):
    x, how = torch.tensor(rows(300)), {"progress": False, "seed": 4}
    whole, space = BoostedTrees(table(rows(300)), rounds=10), table(rows(300))
    likeli.fit(whole, x, **how)
    likeli.fit(BoostedTrees(space, rounds=10), x, steps=2, out=tmp_path / "run", **how)
    part = checkpoint.read(tmp_path / "run").model
    assert not part.grown[2] and "1 of 3 columns" in part.notes[0]
    again = BoostedTrees(space, rounds=10)
    likeli.fit(again, x, steps=3, out=tmp_path / "run", resume=True, **how)
    loaded = likeli.load(tmp_path / "run")
    for model in (again, loaded):
        assert model.trees == whole.trees > 0
        assert all(torch.equal(v, whole.state_dict()[k]) for k, v in model.state_dict().items())
        assert torch.equal(model.log_likelihood(x).value, whole.log_likelihood(x).value)


def test_a_rows_number_is_its_own(fitted):
    x = torch.tensor(rows(80, 5))
    x[::3, 1] = torch.nan
    whole = fitted.log_likelihood(x).value
    assert torch.equal(fitted.log_likelihood(x[20:27]).value, whole[20:27])
    assert torch.equal(fitted.log_likelihood(x.flip(0)).value.flip(0), whole)


def test_reals_get_cells_of_their_own(tmp_path):
    x = torch.tensor(rows(600)[:, [2, 1]]) * 1000 + 1e6
    model = BoostedTrees(Real((2,), mean=(1e6, 1e6), scale=(1000.0, 1000.0)), rounds=20)
    likeli.fit(model, x, progress=False, out=tmp_path / "run")
    log_p = model.log_likelihood(x)
    assert log_p.measure == "density"
    assert torch.equal(likeli.load(tmp_path / "run").log_likelihood(x).value, log_p.value)
    size, k = model.coding.size[0], torch.arange(96)
    one = torch.stack([model.coding.middles[0], torch.full((96,), torch.nan).double()], 1)
    total = (model.log_likelihood(one).value.exp() * size * model.coding.mass[0, k] / model.coding.inner[0, k]).sum()
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_weights_count_rows():
    x = torch.tensor(rows(400))
    twice = torch.cat([x, x[:200]])
    weight = torch.ones(400)
    weight[:200] = 2
    a, b = (BoostedTrees(table(rows(400)), "natural") for _ in range(2))
    for _ in zip(range(1), a.boost(x, x, sample_weight=weight)):
        pass
    for _ in zip(range(1), b.boost(twice, x)):
        pass
    torch.testing.assert_close(a.share[:2], b.share[:2])


def test_what_cannot_be_is_refused(fitted):
    for bad in ({"order": "backwards"}, {"rounds": 0}, {"leaves": 1}, {"leaves": 200}, {"rate": 0}, {"patience": 0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            BoostedTrees(fitted.space, **bad)
    with pytest.raises(Unsupported, match="categorical_mixture"):
        BoostedTrees(likeli.Tokens(4, 3))
    state = {k: v.clone() for k, v in fitted.state_dict().items()}
    state["feature"][0, 0] = 99
    with pytest.raises(CheckpointError, match="trees"):
        BoostedTrees(fitted.space, trees=fitted.trees).load_state_dict(state)

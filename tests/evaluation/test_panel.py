"""The panel of two-sample tests: statistics against brute force and scipy, level against its binomial bound, power."""

import math

import numpy as np
import pandas
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestNeighbors

import likeli
from likeli.cli import main
from likeli.errors import InputError
from likeli.evaluation import cross_fitted
from likeli.evaluation.cross_fitted import boosting_area, logistic_statistic, neighbour_statistics, second_order
from likeli.evaluation.features import normal_scores, pooled_features
from likeli.evaluation.panel import cautions, holm, memorisation, two_sample_test
from likeli.evaluation.permutations import (
    Kernel,
    kernel_statistics,
    kernels_for,
    kolmogorov_smirnov,
    label_weights,
    loudest,
    mean_statistics,
    nearest_rows,
    null_surprise,
    permutation_p,
)
from likeli.spaces import Pixels, Tokens


def pair(n, m, d, seed=0, permutations=99):
    """Rows of equal distributions in random order, and weights."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n + m, d)), label_weights(rng.permutation(n + m) < n, permutations, seed)


def sets(rows, w, k):
    return rows[w[:, k] > 0], rows[w[:, k] < 0]


def test_hotelling_is_the_closed_form_under_every_permutation():
    rows, w = pair(30, 50, 3)
    rows = np.concatenate([rows, rows[:, :1] + rows[:, 1:2]], 1)  # a column that others determine must not matter
    squared, t, ridge = mean_statistics(rows, w)
    assert not ridge
    for k in (0, 5, 99):
        a, b = (v[:, :3] for v in sets(rows, w, k))
        pooled = (29 * np.cov(a.T) + 49 * np.cov(b.T)) / 78
        delta = a.mean(0) - b.mean(0)
        assert squared[k] == pytest.approx(30 * 50 / 80 * delta @ np.linalg.solve(pooled, delta), rel=1e-4)
        assert t[:3, k] == pytest.approx(np.abs(stats.ttest_ind(a, b).statistic), rel=1e-4)


def test_hotellings_permutation_p_is_near_that_of_f():
    """For normal rows T²(N−d−1)/((N−2)d) ~ F(d, N−d−1); the permutation p has standard error √(p(1−p)/B)."""
    rows, w = pair(60, 60, 2, seed=3, permutations=1999)
    squared = mean_statistics(rows, w)[0]
    truth = stats.f.sf(squared[0] * 117 / (118 * 2), 2, 117)
    assert abs(permutation_p(squared) - truth) < 4 * math.sqrt(truth * (1 - truth) / 1999) + 0.01  # 0.01: rows are finite


@pytest.mark.parametrize("digits", [None, 0])
def test_kolmogorov_smirnov_is_scipys(digits):
    rows, w = pair(40, 70, 2)
    rows = rows if digits is None else rows.round(digits)
    found = kolmogorov_smirnov(rows, w)
    for k in (0, 7):
        a, b = sets(rows, w, k)
        assert found[:, k] == pytest.approx([stats.ks_2samp(u, v).statistic for u, v in zip(a.T, b.T)], abs=1e-6)


def test_kernel_statistics_are_brute_force(monkeypatch):
    monkeypatch.setattr("likeli.evaluation.permutations.BLOCK", 17)
    rows, w = pair(30, 45, 3)
    kernels = [Kernel("energy"), Kernel("laplace", 0.7), Kernel("gauss", 1.3)]
    found = kernel_statistics(rows, w, kernels)
    forms = [lambda r: -r, lambda r: np.exp(-r / 0.7), lambda r: np.exp(-(r**2) / (2 * 1.3**2))]
    for k in (0, 3):
        a, b = sets(rows, w, k)
        for form, statistic in zip(forms, found[:, k]):
            aa, bb, ab = (form(np.linalg.norm(u[:, None] - v, axis=2)).mean() for u, v in ((a, a), (b, b), (a, b)))
            assert statistic == pytest.approx(aa + bb - 2 * ab, abs=1e-6)
    one = kernel_statistics(rows[:, :1], w, kernels[:1])[0, 0]
    a, b = sets(rows[:, :1], w, 0)
    assert one == pytest.approx(stats.energy_distance(a[:, 0], b[:, 0]) ** 2, abs=1e-6)


def test_classifiers_refitted_for_each_permutation_are_brute_force():
    rows, w = pair(40, 50, 2)
    votes, counts = neighbour_statistics(rows, w)
    assert counts == [5, 9]
    index = NearestNeighbors(n_neighbors=9).fit(rows).kneighbors(return_distance=False)
    assert np.array_equal(np.sort(nearest_rows(rows, 9)[1]), np.sort(index))
    assert votes[0, 4] == pytest.approx(sum(w[i, 4] * w[index[i, :5], 4].sum() for i in range(90)), rel=1e-4)
    z, total = second_order(rows), 0.0
    for fold in np.array_split(np.arange(90), 5):
        train = np.setdiff1d(np.arange(90), fold)
        penalty = np.trace(z[train].T @ z[train]) / z.shape[1] / 10
        design = np.concatenate([z[train], math.sqrt(penalty) * np.eye(z.shape[1])])
        beta = np.linalg.lstsq(design, np.append(w[train, 4], np.zeros(z.shape[1])), rcond=None)[0]
        total += w[fold, 4] @ z[fold] @ beta
    assert logistic_statistic(rows, w)[4] == pytest.approx(total, rel=1e-4)


def test_surprise_of_a_gamma_is_its_tail():
    """20,000 draws of Γ(2): the fitted law's −log p at the median and at the 99.9 % point, to 5 %."""
    draws = np.random.default_rng(0).gamma(2, size=20_000)
    given = np.concatenate([[stats.gamma.isf(1e-3, 2), stats.gamma.isf(0.5, 2)], draws])
    found = null_surprise(given[None])[0]
    assert found[:2] == pytest.approx([-math.log(1e-3), -math.log(0.5)], rel=0.05)
    assert np.isfinite(null_surprise(np.append(1e6, draws)[None])).all()


def test_level_of_every_member_is_its_own():
    """400 null runs of unequal, tied and skewed sets: false alarms at 5 % inside the binomial's 1e-4 bounds, p uniform."""
    p = []
    for seed in range(400):
        rows, w = pair(25, 40, 2, seed)
        rows = np.concatenate([rows.round(), np.exp(rows[:, :1])], 1)
        squared, t, _ = mean_statistics(rows, w)
        kernels = kernel_statistics(rows, w, kernels_for(rows))
        several = [np.stack([squared, t.max(0)]), kolmogorov_smirnov(rows, w), kernels[1:], neighbour_statistics(rows, w)[0]]
        single = [kernels[0], logistic_statistic(rows, w), *(loudest(s)[0] for s in several)]
        p.append([permutation_p(s) for s in single])
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 400, 0.05)
    alarms = (np.array(p) <= 0.05).sum(0)
    assert (alarms <= high).all()
    assert (alarms >= low).all()
    assert min(stats.kstest(column, "uniform").pvalue for column in np.transpose(p)) > 1e-4  # steps of 1/100 are within it


@pytest.mark.slow
def test_level_of_boosting_and_of_the_panel():
    p = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        found = two_sample_test(rng.normal(size=(60, 3)), rng.normal(size=(80, 3)), seed=seed, permutations=199)
        rows, w = pair(60, 80, 3, seed, permutations=10)
        p.append([found.p, boosting_area(rows, w, seed)[1]])
    alarms = (np.array(p) <= 0.05).sum(0)
    low, high = stats.binom.ppf([1e-3, 1 - 1e-3], 120, 0.05)
    assert (alarms <= high).all()
    assert alarms[1] >= low  # the panel itself may be careful
    assert stats.kstest([q for _, q in p], "uniform").pvalue > 1e-3


def normal(n, d, seed, std=1.0):
    return std * np.random.default_rng(seed).normal(size=(n, d))


def modes(n, keep, seed):
    rng = np.random.default_rng(seed)
    centre = np.array([[-4, -4], [-4, 4], [4, -4], [4, 4]])[rng.integers(0, keep, n)]
    return centre + rng.normal(size=(n, 2))


def correlated(n, seed):
    z = normal(n, 2, seed)
    return np.stack([z[:, 0], 0.8 * z[:, 0] + 0.6 * z[:, 1]], 1)


def comb(n, seed):
    """Uniform on every second of 40 teeth."""
    rng = np.random.default_rng(seed)
    return ((2 * rng.integers(0, 20, n) + rng.random(n)) / 40)[:, None]


SPOTS = {
    "shift": (normal(300, 2, 0), normal(300, 2, 1) + 0.5, {"mean", "marginals", "energy", "mmd", "classifier"}, set()),
    "scale": (normal(300, 2, 0), normal(300, 2, 1, 3.0), {"marginals", "energy", "mmd", "classifier"}, {"mean"}),
    "correlation": (normal(300, 2, 0), correlated(300, 1), {"mmd", "classifier"}, {"mean", "marginals"}),
    "missing mode": (modes(300, 4, 0), modes(300, 3, 1), {"mean", "marginals", "energy", "mmd", "classifier"}, set()),
    "fine structure": (np.random.default_rng(0).random((500, 1)), comb(500, 1), {"mmd", "classifier"}, {"mean", "marginals"}),
}


QUICK = ("missing mode",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SPOTS])
def test_blind_spots(name):
    x, y, fires, blind = SPOTS[name]
    found = two_sample_test(x, y, permutations=199)
    fired = {m.name for m in found.members if m.fired}
    assert fires <= fired
    assert not blind & fired
    assert found.differ
    assert "blind to" in str(found) or len(fired) == 5


def test_features_do_not_know_the_sets():
    """Rows exchanged between the sets keep their features: tables, symbols, pictures, plain cells."""
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": rng.normal(size=80), "b": rng.integers(0, 3, 80), "c": rng.choice(["u", "v"], 80)})
    frame.loc[3, "a"] = np.nan
    cases = [
        (likeli.load_data(frame).space, likeli.load_data(frame).x),
        (Tokens(6, 4, ends=True), Tokens(6, 4, ends=True).check(rng.integers(0, 4, (80, 6)))),
        (Pixels((12, 12), 8), torch.from_numpy(rng.integers(0, 8, (80, 12, 12)))),
        (None, torch.from_numpy(rng.normal(size=(80, 3)) * [1, 1e6, 1e-6])),
    ]
    order = torch.from_numpy(rng.permutation(80))
    for space, x in cases:
        found, _, _ = pooled_features(x[:30], x[30:], space)
        mixed, _, _ = pooled_features(x[order][:30], x[order][30:], space)
        assert found.names == mixed.names and found.n == 30 and np.isfinite(found.rows).all()
        distance, other = (np.linalg.norm(f[:, None] - f, axis=2) for f in (found.rows[order], mixed.rows))
        assert np.allclose(distance, other, atol=1e-6 * distance.max())


def test_features_are_what_they_say():
    v = torch.tensor([3.0, 1.0, torch.nan, 1.0, 8.0])
    assert normal_scores(v)[[1, 0, 4]].tolist() == pytest.approx(stats.norm.ppf([0.25, 0.625, 0.875]).tolist())
    assert normal_scores(v)[2].isnan()
    space = Tokens(3, 3, ends=True)  # the symbol 2 ends a row
    x = space.check([[0, 1, 0], [0, 2, 2]] * 20)
    found, _, _ = pooled_features(x[:20], x[20:], space)
    counts = {name: found.rows[:2, i] for i, name in enumerate(found.names)}
    assert counts["count of 1"][0] > counts["count of 1"][1]
    assert counts["length"][0] > counts["length"][1]
    images = np.random.default_rng(0).integers(0, 5, (60, 14, 14))
    found, _, _ = pooled_features(images[:30], images[30:], Pixels((14, 14), 5))
    centred = images.reshape(60, -1) - images.reshape(60, -1).mean(0)
    scaled = centred / np.sqrt((centred**2).mean())
    rest = np.sqrt(np.maximum((scaled**2).sum(1) - (found.rows[:, :-1] ** 2).sum(1), 0))
    assert found.rows[:, -1] == pytest.approx(rest - rest.mean(), abs=1e-6)  # Pythagoras
    assert found.names[-1] == "rest"


def test_a_category_of_one_set_alone_is_seen():
    rng = np.random.default_rng(0)
    a = pandas.DataFrame({"c": rng.choice(["u", "v"], 150), "n": rng.normal(size=150), "still": 1.0})
    b = pandas.DataFrame({"n": rng.normal(size=150), "c": rng.choice(["u", "v", "w"], 150), "still": 1.0})
    found = two_sample_test(a, b, permutations=199)
    assert found.differ
    assert next(m for m in found.members if m.name == "marginals").where == "c = w"


def test_holm_is_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])


def test_shared_repeated_and_unequal_rows_are_told():
    x, y = (torch.from_numpy(normal(100, 2, s)) for s in (0, 1))
    assert cautions(x, y) == []
    assert "rows of x, bit for bit" in cautions(x, torch.cat([y[:50], x[:3]]))[0]
    assert "repeat others" in cautions(x, y[:20].repeat(5, 1))[0]
    assert "100 rows against 20" in cautions(x, y[:20])[0]
    assert "only y has missing cells" in cautions(x, y.masked_fill(y > 2, torch.nan))[0]
    whole = (x * 2).round()
    assert cautions(whole, (y * 2).round()) == []  # whole numbers repeat by themselves


def test_memorised_rows_are_told_and_fresh_ones_are_not():
    train, x = normal(200, 3, 0), normal(200, 3, 1)
    copies = train[:150] + normal(150, 3, 7, 0.01)
    p, share = memorisation(x, copies, train)
    assert p < 1e-6 and share > 0.8
    assert any("memorises" in w for w in two_sample_test(x, copies, train=train, permutations=199).warnings)
    p = [memorisation(normal(60, 2, 3 * s), normal(50, 2, 3 * s + 1), normal(70, 2, 3 * s + 2))[0] for s in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_seeds_and_strangers():
    x, y = normal(30, 2, 0), normal(40, 2, 1)
    before = torch.get_rng_state()
    found = two_sample_test(x, y, seed=3, permutations=199)
    assert found == two_sample_test(torch.from_numpy(x), y.tolist(), seed=3, permutations=199)
    assert torch.equal(before, torch.get_rng_state())
    assert (found.n, found.m, found.columns, len(found.kernels)) == (30, 40, 2, 20)
    assert min(m.p for m in two_sample_test(x, x + 9, permutations=199).members) == 0.005  # 1/(1 + B)


@pytest.mark.parametrize("x,y,options,what", [
    (normal(30, 2, 0), normal(30, 3, 0), {}, "y: expected rows of shape"),
    (normal(19, 2, 0), normal(30, 2, 0), {}, "x: expected at least 20 rows"),
    (normal(30, 2, 0), np.full((30, 2), np.inf), {}, "y: expected finite cells"),
    (np.ones((30, 2)), np.ones((30, 2)), {}, "a column that varies"),
    (normal(30, 2, 0), normal(30, 2, 0), {"permutations": 198}, "permutations: expected at least 199 for level 0.05"),
    (normal(30, 2, 0), normal(30, 2, 0), {"level": 0.0}, "level"),
    (pandas.DataFrame({"a": [1.0] * 30}), pandas.DataFrame({"b": [1.0] * 30}), {}, "y: expected the columns a, got b"),
])  # fmt: skip
def test_bad_input_is_one_line(x, y, options, what):
    with pytest.raises(InputError, match=what):
        two_sample_test(x, y, **options)


def test_the_command_compares_runs_files_and_parts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cross_fitted, "REFITS", 2)  # trees are most of the time
    rng = np.random.default_rng(0)
    for name, scale in (("a", 1.0), ("b", 3.0)):
        np.savetxt(f"{name}.csv", scale * rng.normal(size=(300, 2)), delimiter=",", header="u,v", comments="")
    assert main(["fit", "a.csv", "--model", "gmm", "--model.components", "1", "--quiet", "--out", "run"]) == 0
    capsys.readouterr()

    def tested(*words):
        import json

        assert main(["test", *words, "--json", "--permutations", "199"]) == 0
        return json.loads(capsys.readouterr().out)

    assert not tested("run")["differ"]
    assert tested("run")["m"] == 30
    assert main(["test", "run", "--metrics"]) == 2  # 30 held-out rows are too few for them
    assert "x: expected at least 40 rows" in capsys.readouterr().err
    assert main(["test", "run", "b.csv", "--metrics"]) == 2
    capsys.readouterr()
    assert tested("a.csv", "b.csv")["differ"]
    assert tested("run", "b.csv")["differ"]
    found = tested("a.csv@train", "a.csv@valid", "--rows", "100")
    assert (found["n"], found["m"], found["differ"]) == (100, 30, False)
    assert main(["test", "a.csv"]) == 2
    assert "B: expected a second set" in capsys.readouterr().err
    assert main(["test", "a.csv", "b.csv", "--permutations", "9"]) == 2
    assert main(["test", "a.csv@train", "none.csv"]) == 2

"""Rows on conditions: what a text means, that draws follow p(x | conditions), and what is refused."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import likeli
from likeli.cli.app import main
from likeli.errors import InputError, Unsupported
from likeli.evaluation import where
from likeli.evaluation.where import sample_where
from likeli.spaces import Calendar, Column, Marginal, Real, Table
from likeli.spaces.region import read_region

RNG = np.random.default_rng(0)
WHOLE = Marginal((0.0, 1.0, 4.0), (0.0, 3.0, 4.0), (0.3, 0.5, 0.2), 0.0, ("bound", "bound"))
SMALL = Table((
    Column("city", "categorical", categories=("Paris, France", "Rome", "New York")),
    Column("grade", "ordinal", categories=("low", "middle", "high")),
    Column("n, of them", "integer", marginal=WHOLE),
    Column("is it", "boolean", categories=("False", "True")),
))  # fmt: skip
ROWS = torch.tensor(list(itertools.product(range(3), range(3), range(5), range(2))), dtype=torch.float64)
WIDE = Table((
    *SMALL.columns,
    Column("size", marginal=Marginal((0.0, 1.0, 1.0), (1.0, 1.0, 2.0), (0.25, 0.5, 0.25), 1e-3)),
    Column("day", "date", scale=100.0, calendar=Calendar()),
))  # fmt: skip


@pytest.mark.parametrize("text, kept", [
    ("city=Rome", {0: [1]}),
    ("city=Rome|New York", {0: [1, 2]}),
    ('city="Paris, France"', {0: [0]}),
    ("city='Paris, France'|Rome , grade<high", {0: [0, 1], 1: [0, 1]}),
    ("city!=Rome", {0: [0, 2]}),
    ("grade>=middle", {1: [1, 2]}),
    ("grade>low,grade<high", {1: [1]}),
    ('"n, of them">=2', {2: [2, 3, 4]}),
    ('"n, of them">1.5,"n, of them"<3.5', {2: [2, 3]}),
    ('"n, of them"!=2|3', {2: [0, 1, 4]}),
    ("is it=true", {3: [1]}),
    ({"city": ["Rome", "New York"], "n, of them": (1, None), "is it": False}, {0: [1, 2], 2: [1, 2, 3, 4], 3: [0]}),
])  # fmt: skip
def test_what_conditions_mean(text, kept):
    inside = read_region(text, SMALL).contains(ROWS)
    expected = torch.ones(len(ROWS), dtype=torch.bool)
    for i, values in kept.items():
        expected &= torch.isin(ROWS[:, i], torch.tensor(values, dtype=torch.float64))
    assert torch.equal(inside, expected)


def test_signs_within_values_ends_of_reals_and_dates():
    named = {"pay": ("<=50K", ">50K"), "a|b": ("x|y", "z")}
    pay = Table(tuple(Column(name, "categorical", categories=known) for name, known in named.items()))
    assert read_region("pay=>50K", pay).points == {0: 1.0}
    assert read_region("pay=<=50K,a|b='x|y'", pay).points == {0: 0.0, 1: 0.0}
    x = torch.tensor([[0, 0, 0, 0, v, 3.0] for v in (0.5, 1.0, 1.5)], dtype=torch.float64)
    held = {"size<1": [1, 0, 0], "size<=1": [1, 1, 0], "size>1": [0, 0, 1], "size=1": [0, 1, 0], "size!=1": [1, 0, 1]}
    for text, kept in held.items():
        assert read_region(text, WIDE).contains(x).int().tolist() == kept
    assert read_region("day<=1970-01-04,day>1970-01-02", WIDE).allowed[5] == ((2.0, 3.0),)
    gone = torch.tensor([[math.nan, 0, 0, 0]], dtype=torch.float64)
    assert not read_region("city!=Rome", SMALL).contains(gone)


REFUSED = [
    ("", "where: expected conditions such as"),
    ("city", "where: expected name=value, with a sign of"),
    ("city=", "where: expected a value after city"),
    ("city=Rome,", "where: expected a condition after the last comma, got nothing"),
    ("town=Rome", "where: no column 'town'"),
    ("citty=Rome", "where: no column 'citty'; did you mean city"),
    ("city=Roma", "where, city: expected one of Paris, France, Rome, New York, got 'Roma'; did you mean Rome"),
    ("city=Paris, France", "where: expected name=value, .*got 'France'"),
    ('city="Rome" x', "where: expected a value, or a comma after one in quotes"),
    ("city>Rome", "where, city: expected = or !=, as its type is categorical"),
    ("grade>low|high", "where, grade: expected one value after >"),
    ("city=Rome,city=New York", "expected conditions that can hold together, got city=Rome and city=New York"),
    ('"n, of them">=3,"n, of them"<3', "expected conditions that can hold together"),
    ('"n, of them">=9', "expected values of 0 to 4, which samples keep to, got none of them"),
    ('"n, of them"=2.5', "where, n, of them: expected a whole number"),
    ('"n, of them"=many', "where, n, of them: expected a number, got 'many'"),
    ("grade>high", "expected values of low to high"),
    ("day=1970-02-31", "where, day: expected a date"),
    ("day=soon", "where, day: expected dates such as"),
    ("size=nan", "where, size: expected a finite number"),
    (3, "where: expected a text such as"),
    ({"size": (None, None)}, r"where, size: expected a range \(low, high\)"),
    ({"city": []}, "where, city: expected a value, got an empty list"),
]  # fmt: skip


@pytest.mark.parametrize("text, words", REFUSED)
def test_conditions_that_do_not_fit_are_one_line(text, words):
    with pytest.raises(InputError, match=words) as caught:
        read_region(text, WIDE)
    assert "\n" not in str(caught.value)


def test_other_data_have_no_columns():
    with pytest.raises(InputError, match="where: expected a table, or rows of named reals, got pixels data"):
        sample_where(likeli.Independent(likeli.Pixels((2, 2))), 1, "a=1")


# --- the law ----------------------------------------------------------------------------------------------------------------


def agrees(drawn, rows, log_p):
    """Pearson's test of drawn rows against p of all rows that there are."""
    p = (log_p - log_p.logsumexp(0)).exp()
    seen = torch.stack([(drawn == row).all(1).sum() for row in rows]).double()
    assert seen.sum() == len(drawn)
    assert seen[p < 1e-12].sum() == 0
    common = p * len(drawn) > 5
    rest = [(seen[~common].sum().item(), p[~common].sum().item() * len(drawn))]
    pairs = list(zip(seen[common].tolist(), (p[common] * len(drawn)).tolist())) + [r for r in rest if r[1] > 5]
    observed, expected = np.array(pairs).T
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def small_model(family, **options):
    """A family on `SMALL`, away from its start."""
    with likeli.seeded(3, "model"):
        model = likeli.build({"class": family, "space": SMALL, **options}, likeli.GenerativeModel)
    rows = ROWS[torch.multinomial(torch.rand(len(ROWS), generator=torch.Generator().manual_seed(1)) ** 4, 400, True)]
    likeli.fit(model, rows, progress=False, **({"steps": 30} if model.strategy == "sgd" else {}))
    return model


CONDITIONS = ["grade>=middle,city!=Rome", '"n, of them"=1|2|4,is it=True', 'grade=high,"n, of them">0', "city=Rome"]


@pytest.mark.parametrize("family, options", [("independent", {}), ("categorical_mixture", {"components": 4})])
def test_mixtures_are_reweighted_and_truncated(family, options):
    model = small_model(family, **options)
    log_p = model.log_likelihood(ROWS).value
    for text in CONDITIONS:
        inside = read_region(text, SMALL).contains(ROWS)
        found = sample_where(model, 3000, text, seed=5)
        assert found.how == "exact"
        assert found.log_p == pytest.approx(log_p[inside].logsumexp(0).item(), abs=1e-9)
        agrees(found.x, ROWS[inside], log_p[inside])


@pytest.mark.parametrize("order", ["natural", "any"])
def test_an_autoregressive_model_draws_what_is_held_first(order):
    """In a natural order what is held at its beginning is exact by itself; with any order, what is held comes first."""
    model = small_model("autoregressive", order=order)
    held_first = {"city=Rome,grade=low": 2, 'city=Rome,"n, of them">=1': 1, "is it=True,grade=high": 2 * (order == "any")}
    for text, held in held_first.items():
        region = read_region(text, SMALL)
        found, inside = sample_where(model, 600, text, seed=2), region.contains(ROWS)
        assert len(found.held) == held
        assert found.how == ("exact" if held == len(region.allowed) else "rejection")
        first = sorted(region.points) if order == "any" else []
        along = torch.tensor([*first, *(i for i in range(4) if i not in first)])
        with torch.no_grad():
            log_p = model.log_prob(ROWS[inside], None, along)
        agrees(found.x, ROWS[inside], log_p.double())


@pytest.mark.parametrize("family, options", [("gmm", {"components": 3}), ("vae", {})])
def test_rejection_is_exact_and_says_its_price(family, options):
    model = small_model(family, **options)
    text = 'grade>=middle,"n, of them">=1'
    region = read_region(text, SMALL)
    found, plain = sample_where(model, 2000, text, seed=5), model.sample(20_000, seed=9)
    share = region.contains(plain).double().mean().item()
    assert found.how == "rejection"
    error = math.hypot(found.stderr, math.sqrt((1 - share) / share / len(plain)))
    assert abs(found.log_p - math.log(share)) < 4.5 * error
    assert f"{len(found.x):,} of {found.drawn:,} draws kept" in found.note
    rows = ROWS[region.contains(ROWS)]
    kept = plain[region.contains(plain)]
    counts = np.array([[(part == row).all(1).sum().item() for row in rows] for part in (found.x, kept)])
    counts = counts[:, counts.sum(0) > 20]
    assert stats.chi2_contingency(counts).pvalue > 1e-4


def test_more_rows_begin_with_the_fewer():
    for family, options in (("independent", {}), ("gmm", {"components": 2}), ("vae", {})):
        model = small_model(family, **options)
        few, many = (sample_where(model, n, "grade>=middle", seed=4).x for n in (7, 100))
        assert torch.equal(few, many[:7])


GAUSS = likeli.GMM.from_parameters(
    Real((3,), names=("a", "b", "c")), [0.4, 0.6], [[0.0, 1, 2], [3, -1, 0]],
    [[[1, 0.5, 0.2], [0.5, 2, -0.3], [0.2, -0.3, 1]], [[0.5, -0.3, 0], [-0.3, 1, 0.4], [0, 0.4, 2]]],
)  # fmt: skip


def test_gaussians_are_truncated_in_one_column_and_rejected_in_others():
    plain = GAUSS.sample(60_000, seed=8).double()
    for text, how in {"a>=2": "exact", "a>=0.5,a<1": "exact", "a>=2,b<0": "rejection", "a!=1,c>4": "exact"}.items():
        found = sample_where(GAUSS, 3000, text, seed=1)
        kept = plain[read_region(text, GAUSS.space).contains(plain)]
        assert found.how == how
        assert abs(found.log_p - math.log(len(kept) / len(plain))) < 4.5 * math.hypot(found.stderr, len(kept) ** -0.5)
        for mine, theirs in zip(found.x.double().T, kept.T):
            assert stats.ks_2samp(mine.numpy(), theirs.numpy()).pvalue > 1e-4
    law = [stats.norm(0, 1).sf(2), stats.norm(3, 0.5**0.5).sf(2)]
    assert sample_where(GAUSS, 5, "a>=2").log_p == pytest.approx(math.log(0.4 * law[0] + 0.6 * law[1]), abs=1e-9)


def test_a_value_of_a_density_is_conditioned_on():
    row = torch.tensor([[1.5, math.nan, math.nan]], dtype=torch.float64)
    moments = GAUSS.conditional(row)
    found = sample_where(GAUSS, 4000, "a=1.5", seed=3)
    assert found.how == "exact"
    assert found.log_p is None
    assert (found.x[:, 0] == 1.5).all()
    deviation = moments.covariance[0].diagonal()[1:].sqrt()
    off = (found.x[:, 1:].mean(0) - moments.mean[0, 1:]) / deviation * len(found.x) ** 0.5
    assert off.abs().max() < 4.5
    assert ((found.x[:, 1:].std(0) / deviation).log().abs() < 4.5 / (2 * len(found.x)) ** 0.5 * 2).all()
    both = sample_where(GAUSS, 200, "a=1.5,b=0,c>0")
    assert (both.x[:, :2] == torch.tensor([1.5, 0.0])).all()
    flow = likeli.Flow(GAUSS.space)
    with pytest.raises(Unsupported, match="where: a at one value has no probability under a density, and flow cannot"):
        sample_where(flow, 3, "a=1.5")


def test_a_mixture_of_cells_holds_a_value_of_a_density():
    """Where a real column is uniform in its cells the density cancels: what is left is the law given the cell."""
    frame = pd.DataFrame({"x": RNG.normal(size=600), "c": RNG.choice(["u", "v"], 600)})
    frame.loc[frame["c"] == "u", "x"] += 2
    data = likeli.load_data(frame)
    model = likeli.CategoricalMixture(data.space, 2)
    likeli.fit(model, data, progress=False)
    found = sample_where(model, 4000, "x=1.234", seed=2)
    row = torch.tensor([[1.234, 0.0], [1.234, 1.0]], dtype=torch.float64)
    p = model.log_likelihood(row).value.softmax(0)
    assert (found.x[:, 0] == 1.234).all()
    assert abs((found.x[:, 1] == 1).double().mean() - p[1]) < 4.5 * (p[0] * p[1] / 4000).sqrt()


def test_where_draws_are_too_few_cells_are_filled(monkeypatch):
    model = small_model("vae")
    monkeypatch.setattr(where, "HOPELESS", 0)
    found = sample_where(model, 60, 'city=Rome,"n, of them">=1', seed=1)
    assert found.how == "importance"
    assert found.note.startswith("not exact: by importance resampling, effective sample size")
    assert len(found.ess) == 60
    assert read_region('city=Rome,"n, of them">=1', SMALL).contains(found.x).all()


def test_what_draws_hardly_ever_fulfil_is_refused_with_its_probability():
    model = likeli.Flow(GAUSS.space)
    with pytest.raises(InputError, match=r"where: none of 64 draws of flow fulfil a>9, so .* below 0.05 \(95 %\): expected 5"):
        sample_where(model, 5, "a>9", tries=60)
    with pytest.raises(InputError, match=r"where: \d+ of 64 draws of flow fulfil a>1, .*: expected 60 rows; ask for \d+ rows"):
        sample_where(model, 60, "a>1", tries=60)


# --- the command --------------------------------------------------------------------------------------------------------------


def test_the_command_writes_rows_of_the_table(tmp_path, capsys):
    n = 300
    frame = pd.DataFrame({
        "town, city": pd.Categorical(RNG.choice(["Bonn, Rhein", "Ulm"], n)),
        "pay": RNG.choice(["<=50K", ">50K"], n),
        "age": RNG.integers(18, 70, n).astype("int16"),
        "member": RNG.random(n) < 0.4,
        "w": RNG.normal(size=n).astype("float32"),
        "day": pd.date_range("2024-01-01", periods=n, freq="D"),
        "grade": pd.Categorical(RNG.choice(list("abc"), n), list("cbad"), ordered=True),
    })  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    run, out = str(tmp_path / "run"), tmp_path / "s.parquet"
    fit = ["fit", str(tmp_path / "t.parquet"), "--model", "vae", "--steps", "5", "--labels", "pay", "--out", run, "--quiet"]
    assert main([*fit, "--types", "grade=ordinal"]) == 0
    capsys.readouterr()
    asked = '"town, city"="Bonn, Rhein",age>=30,grade<a'
    words = ["sample", run, "-n", "40", "--label", ">50K", "--where", asked, "--out", str(out)]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["how"] == "rejection"
    assert told["drawn"] >= 40
    drawn = pd.read_parquet(out)
    assert list(drawn.columns) == list(frame.columns)
    assert (drawn.dtypes == frame.dtypes).all()
    assert (drawn["town, city"] == "Bonn, Rhein").all()
    assert drawn["age"].ge(30).all()
    assert set(drawn["grade"]) <= {"c", "b"}
    assert (drawn["pay"] == ">50K").all()
    assert main(["sample", run, "-n", "40", "--out", str(tmp_path / "s.csv")]) == 0
    assert (tmp_path / "s.csv").read_text().splitlines()[0] == '"town, city",pay,age,member,w,day,grade'
    assert main([*words[:-2], "--out", str(out)]) == 2
    assert main(["sample", run, "--where", "pay=>50K", "--out", str(tmp_path / "no.csv")]) == 2
    assert "the run is conditional on it: --label Y" in capsys.readouterr().err

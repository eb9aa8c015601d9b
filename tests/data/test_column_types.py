"""Types of columns: guessed alike by every reader, said by the user, kept with the run, and bounds that nothing leaves."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_iris, load_wine

import likeli
from likeli.cli.app import main
from likeli.config import describe
from likeli.data import load_columns, load_data
from likeli.data.column_types import read_types
from likeli.errors import InputError
from likeli.evaluation.features import pooled_features
from likeli.spaces import Marginal
from likeli.spaces.marginal import Marginals

N = 400
RNG = np.random.default_rng(0)
LEVELS = ["low", "middle", "high"]
TABLE = pd.DataFrame({
    "id": [f"p{i:04d}" for i in range(N)],
    "zip": RNG.choice(["02134", "10001", "00501"], N),
    "code": RNG.choice([404, 500, 200], N),
    "level": RNG.choice(LEVELS, N),
    "member": RNG.random(N) < 0.3,
    "visits": RNG.integers(0, 60, N),
    "share": RNG.beta(2, 5, N),
    "gain": np.where(RNG.random(N) < 0.9, 0.0, RNG.gamma(2, 500, N)),
    "since": pd.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d"),
})  # fmt: skip
SAID = {
    "id": "drop",
    "code": "categorical",
    "level": {"type": "ordinal", "categories": LEVELS},
    "visits": {"type": "integer", "low": 0},
    "share": {"type": "real", "low": 0, "high": 1},
    "gain": {"low": "open", "high": "open"},
    "since": {"type": "date", "low": "2019-01-01"},
}
TYPES = {"zip": "categorical", "code": "categorical", "level": "ordinal", "member": "boolean", "visits": "integer",
         "share": "real", "gain": "real", "since": "date"}  # fmt: skip


def typed(data):
    return [{k: v for k, v in c.items() if k != "class"} for c in describe(data.space)["columns"]]


def test_every_reader_ends_in_the_types_that_are_said(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    TABLE.to_parquet(tmp_path / "t.parquet")
    read = [load_data(source, types=SAID) for source in (tmp_path / "t.csv", tmp_path / "t.parquet", TABLE)]
    for data in read:
        assert {c.name: c.type for c in data.space.columns} == TYPES
        assert typed(data) == typed(read[0])
        assert torch.equal(data.x, read[0].x)
    assert read[0].space.columns[2].categories == tuple(LEVELS)


NUMBERS = {"iris": load_iris(as_frame=True).frame, "wine": load_wine(as_frame=True).frame, "ours": TABLE[["code", "gain"]]}


@pytest.mark.parametrize("table", NUMBERS.values(), ids=NUMBERS)
def test_an_array_is_what_its_frame_and_its_files_are(table, tmp_path):
    """Whole numbers that an array of decimals holds are whole numbers."""
    table = table.set_axis([f"x{i}" for i in range(table.shape[1])], axis=1)
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    sources = (tmp_path / "t.csv", tmp_path / "t.parquet", table, table.to_numpy(float))
    read = [load_data(source, kind="table") for source in sources]
    assert all(typed(data) == typed(read[0]) for data in read)
    whole = [(table[c] == table[c].round()).all() for c in table]
    assert [c.type == "integer" for c in read[0].space.columns] == whole


def test_a_file_of_types_is_written_edited_and_read_back(tmp_path, capsys):
    path, kept = tmp_path / "t.csv", tmp_path / "types.yaml"
    TABLE.to_csv(path, index=False)
    assert main(["load", str(path), "--columns", "--out", str(kept)]) == 0
    table = capsys.readouterr().out
    for words in ("id      text", "400 different texts in 400 rows", "categorical or boolean if they are codes", "00501"):
        assert words in table
    said = read_types(kept)
    assert said["id"].type == "text"
    assert said["zip"].categories == ("00501", "02134", "10001")
    with pytest.raises(InputError, match=r"column id: .*types={'id': 'drop'} \(--types id=drop\) leaves it out"):
        load_data(path, types=kept)
    kept.write_text(kept.read_text().replace("id: text", "id: drop"))
    assert typed(load_data(path, types=kept)) == typed(load_data(path, types={"id": "drop"}))
    assert main(["load", str(path), "--columns", "--types", str(kept), "--out", str(tmp_path / "types.json"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["columns"]
    assert {r["name"]: r["type"] for r in rows} == TYPES | {"code": "integer", "level": "categorical"}
    assert read_types(tmp_path / "types.json") == {k: v for k, v in read_types(kept).items() if k != "id"}


def test_types_are_kept_with_the_run(tmp_path, capsys):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    words = [str(tmp_path / "t.csv"), "--types", "id=drop,code=categorical"]
    assert main(["fit", *words, "--model", "independent", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert main(["compare", *words, "--models", "independent", "--samples", "0", "--quiet", "--json"]) == 0
    nats = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert nats[0]["nats"] == nats[1]["rows"][0]["nats"]
    assert likeli.load(tmp_path / "run").space.columns[1].categories == ("200", "404", "500")


# --- bounds ---------------------------------------------------------------------------------------------------------------


def mass_within(law, whole, low, high):
    """Σ or ∫ p(x) over [low, high], exactly: cell by cell, in which p is constant."""
    ends = torch.tensor([[(a + b) / 2] for a, b in zip(law.low, law.high)], dtype=torch.float64)
    one = Marginals([law], torch.tensor([whole]))
    if whole:
        x = torch.arange(low, high + 1, dtype=torch.float64)[:, None]
        p = one.mass[0][one.symbols(x)[:, 0]] * one.log_within(x)[:, 0].exp()
        return p.sum().item()
    size = torch.tensor([b - a if b > a else 1.0 for a, b in zip(law.low, law.high)], dtype=torch.float64)
    return (one.mass[0] * one.log_within(ends)[:, 0].exp() * size).sum().item()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("limits", [(-3.0, 70.0), (None, 90.0), (-1.0, None)])
def test_p_is_one_within_bounds_and_nothing_beyond(whole, limits):
    x = RNG.integers(0, 60, 500).astype(float) if whole else RNG.gamma(2, 8, 500).clip(0, 60)
    law = Marginal.found(x, whole, 1, limits)
    one = Marginals([law], torch.tensor([whole]))
    inside = mass_within(law, whole, law.low[0], law.high[-1])
    assert inside == pytest.approx(1 - law.escape / 2 * sum(end is None for end in limits), abs=1e-9)
    for end, beyond in zip(limits, (-4.0, 91.0)):
        if end is not None:
            assert one.log_within(torch.tensor([[beyond]], dtype=torch.float64)).item() == -math.inf
    u = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None]
    back = one.unscale(u)
    low, high = law.bounds
    assert low <= back.min()
    assert back.max() <= high
    middle = one.unscale(one.scale(back, torch.full_like(back, 0.5))[0])
    torch.testing.assert_close(middle, back, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family, options", [
    ("gmm", {"components": 3}), ("categorical_mixture", {"components": 3}), ("independent", {}), ("flow", {}), ("vae", {}),
])  # fmt: skip
def test_no_sample_leaves_the_range_or_the_bounds_unless_asked(family, options):
    data = load_data(TABLE, types=SAID)
    model = likeli.build({"class": family, "space": data.space, **options}, likeli.GenerativeModel)
    likeli.fit(model, data, **({"steps": 5} if model.strategy == "sgd" else {}), progress=False)
    drawn = model.space.frame(model.sample(4096, seed=3))
    train = TABLE.iloc[data.train.numpy()]
    assert drawn["share"].between(0, 1).all()
    assert drawn["visits"].between(0, train["visits"].max()).all()
    assert drawn["since"].between("2019-01-01", train["since"].max()).all()


def test_an_open_end_is_drawn_from_as_p_has_it():
    """P(beyond) = escape/2 at each end; beyond by y with P ∝ 1/(1 + y/span), which both ways to draw follow."""
    law = Marginal((0.0, 1.0), (1.0, 2.0), (0.5, 0.5), 0.4, ("open", "observed"))
    one, n = Marginals([law], torch.tensor([False])), 40_000
    u = torch.from_numpy(np.random.default_rng(1).normal(size=(n, 1)))
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(2, (n, 1), generator=generator)
    for x in (one.confined(one.unscale(u)), one.values(symbols, likeli.Streams(1, range(n)))):
        beyond = -x[x < 0].numpy()
        assert abs(len(beyond) / n - 0.2) < 4.5 * math.sqrt(0.2 * 0.8 / n)
        assert stats.kstest(2 / (2 + beyond), "uniform").pvalue > 1e-4
        assert x.max() <= 2
        assert stats.kstest(x[x > 1].numpy() - 1, "uniform").pvalue > 1e-4  # the kept tail is spread over its cell


def test_rows_that_are_given_stay_as_they_are():
    data = load_data(TABLE[["visits", "share"]])
    model = likeli.GMM(data.space, 2)
    likeli.fit(model, data, progress=False)
    row = torch.tensor([[500.0, math.nan]], dtype=torch.float64)
    assert (likeli.impute(model, row, 5).draws[..., 0] == 500).all()


# --- what is refused ------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"agee": "real"}, "no column 'agee' to take as real"),
    ({"id": "drop", "visit": "drop"}, "no column 'visit' to take as drop; did you mean visits"),
    ({"id": "text"}, "column id: expected texts that rows share, got 400 different texts"),
    ({"id": "names"}, "column id: expected one of real, integer, .*, got names"),
    ({"id": {"kind": "drop"}}, "column id: unknown key 'kind'; it has type, categories, low, high"),
    ({"level": "ordinal"}, "column level: expected categories from the least to the most"),
    ({"level": {"type": "ordinal", "categories": ["low", "high"]}}, "column level: expected one of low, high, got 'middle'"),
    ({"level": {"categories": ["low", "low"]}}, "column level, categories: expected every category once"),
    ({"level": {"type": "real", "categories": ["low"]}}, "column level: expected no categories, as its type is real"),
    ({"level": "real"}, "column level: expected numbers, got .* at row 0"),
    ({"level": "boolean"}, "column level: expected two values, as its type is boolean"),
    ({"level": {"low": 1}}, "column level: expected no bounds, as its type is categorical"),
    ({"share": "integer"}, "column share: expected whole numbers, as its type is integer"),
    ({"share": "date"}, "column share: expected dates"),
    ({"level": "date"}, "column level: expected dates such as 2020-12-31"),
    ({"visits": {"low": 5, "high": 5}}, "column visits: expected low below high"),
    ({"visits": {"low": "none of it"}}, "column visits: expected a number as its bound"),
    ({"visits": {"low": 0.5}}, "column visits: expected a whole number as its bound"),
    ({"visits": {"high": 10}}, "row .*, column visits: expected at most 10, its bound, got"),
    ({"since": {"low": "2020-02-01"}}, "row 0, column since: expected at least 2020-02-01, its bound, got 2020-01-01"),
    ({"since": {"low": "2020-02-31"}}, "column since, bound: expected a date from"),
    (3, "types: expected types by column name"),
    ("none.yaml", "types: cannot read none.yaml: No such file"),
    ("id=drop,id=text", "types: expected every column once, got id"),
]  # fmt: skip


@pytest.mark.parametrize("types, words", REFUSED)
def test_types_that_do_not_fit_are_one_line(types, words):
    rest = {"id": "drop"} if isinstance(types, dict) and "id" not in types else {}
    with pytest.raises(InputError, match=words) as caught:
        load_data(TABLE, types=types | rest if rest else types)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, words", [
    ("a: real\na: integer\n", "line 2: expected every name once, got a"),
    ("a: &x real\nb: *x\n", "expected a file without aliases"),
    ("a: [real\n", "line 2 column 1"),
    ("- a\n", "expected types by column name"),
])  # fmt: skip
def test_files_of_types_that_are_none(text, words, tmp_path):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_types(tmp_path / "t.yaml")


def test_words_of_a_file_are_texts(tmp_path):
    (tmp_path / "t.yaml").write_text("a: {categories: [no, 'yes', 007, 2020-12-31, <=50K, '>50K']}\nb: {high: 1e3}\n")
    said = read_types(tmp_path / "t.yaml")
    assert said["a"].categories == ("no", "yes", "007", "2020-12-31", "<=50K", ">50K")
    assert said["b"].high == 1000.0


def test_a_value_beyond_a_bound_is_refused_by_a_fitted_model(tmp_path):
    data = load_data(TABLE, types=SAID)
    row = TABLE.iloc[:1].assign(visits=-1).drop(columns="id")
    with pytest.raises(InputError, match="expected values of at least 0, its bounds, got -1 at row 0, column visits"):
        data.space.check(row)


def test_a_column_that_counts_its_rows_is_told():
    _, rows = load_columns(pd.DataFrame({"n": np.arange(50), "x": RNG.normal(size=50)}))
    assert rows[0].reason == "whole numbers, all different: drop it if it counts rows"


def test_two_tables_are_compared_without_what_identifies_their_rows():
    with pytest.warns(UserWarning, match="left out, since their texts identify rows: id"):
        found, x, _ = pooled_features(TABLE.iloc[:200], TABLE.iloc[200:])
    assert x.shape == (200, 8)
    assert not any(name.startswith("id") for name in found.names)


def test_an_ordered_category_is_guessed_like_its_texts_in_a_file_and_its_order_counts_where_that_is_said():
    frame = pd.DataFrame({"v": np.arange(40) / 7, "c": pd.Categorical(["lo", "hi"] * 20, ["lo", "hi"], ordered=True)})
    guessed, said = (likeli.load_data(frame, types=t).space.columns[1] for t in (None, {"c": "ordinal"}))
    assert (guessed.type, guessed.categories) == ("categorical", ("hi", "lo"))
    assert (said.type, said.categories) == ("ordinal", ("lo", "hi"))

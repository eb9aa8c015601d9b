"""What `likeli impute`, `likeli classify` and `likeli anomaly` write of the rows of a file is what the library says of them."""

import csv
import json

import numpy as np
import pandas
import pytest

import likeli
from likeli.cli import main


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A table with a label, a column that the run does not know, and holes; a run of latent classes and one with labels."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    kind = rng.integers(0, 2, 200)
    frame = pandas.DataFrame(
        {
            "age": rng.poisson(20 + 15 * kind),
            "town": np.array(["Oslo", "Rome"])[kind],
            "height": rng.normal(size=200).round(3) + kind,
            "kind": np.array(["cat", "dog"])[kind],
        }
    )
    frame.drop(columns="kind").to_csv(folder / "fit.csv", index=False)
    frame.to_csv(folder / "labelled.csv", index=False)
    holed = frame.astype({"age": "Int64"})
    holed.loc[::3, "age"], holed.loc[1::3, "town"], holed.loc[2::4, "height"] = None, None, None
    holed.insert(1, "note", [f"n{i}" for i in range(200)])
    holed.to_csv(folder / "holes.csv", index=False)
    words = ["--model", "categorical_mixture", "--model.components", "2", "--out", f"{folder}/run"]
    assert main(["fit", f"{folder}/fit.csv", *words]) == 0
    words = ["--model", "vae", "--labels", "kind", "--steps", "20", "--out", f"{folder}/labels"]
    assert main(["fit", f"{folder}/labelled.csv", *words]) == 0
    return folder, holed


def test_holes_are_filled_and_all_else_is_as_it_was(desk, capsys):
    folder, holed = desk
    words = ["impute", f"{folder}/run", f"{folder}/holes.csv", "--out", f"{folder}/full.csv", "--cells", f"{folder}/cells.csv"]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["filled_cells"] == int(holed.isna().sum().sum())
    written, given = (list(csv.reader((folder / name).open())) for name in ("full.csv", "holes.csv"))
    assert written[0] == given[0]
    assert all(w == g or (g == "" and w) for new, old in zip(written, given, strict=True) for w, g in zip(new, old))
    truth = likeli.impute(likeli.load(folder / "run"), holed[["age", "town", "height"]])
    average = truth.mean["age"].astype(float)
    assert (average != average.round()).any()
    assert [row[0] for row in written[1:]] == [str(round(age)) for age in average]  # whole numbers, written as such
    cells = pandas.read_csv(folder / "cells.csv")
    full = cells.loc[cells["column"] == "age", "value"].astype(float)
    assert full.tolist() == pytest.approx(average[holed["age"].isna()].tolist(), rel=1e-12)
    assert len(cells) == about["filled_cells"]
    assert ((cells["low"] <= cells["high"]) == cells["share"].isna()).all()


@pytest.mark.parametrize("words", [[], ["--fill", "draws", "-n", "1"]])
def test_a_column_without_any_cell_is_whole_as_the_run_knows_it(desk, words):
    folder, holed = desk
    holed[["town", "height"]].head(2).assign(age=None).to_csv(folder / "ageless.csv", index=False)
    assert main(["impute", f"{folder}/run", f"{folder}/ageless.csv", "--out", f"{folder}/aged.csv", "--overwrite", *words]) == 0
    assert pandas.read_csv(folder / "aged.csv", dtype=str)["age"].str.fullmatch(r"\d+").all()


def test_medians_of_the_draws_are_written_where_they_are_asked_for(desk):
    folder, holed = desk
    words = ["impute", f"{folder}/run", f"{folder}/holes.csv", "--out", f"{folder}/mid.csv", "--cells", f"{folder}/at.csv"]
    assert main([*words, "--fill", "median", "-n", "20"]) == 0
    truth = likeli.impute(likeli.load(folder / "run"), holed[["age", "town", "height"]], 20)
    middle = pandas.Series(np.median(truth.draws[:, :, 0].double().numpy(), 0))
    written, cells = pandas.read_csv(folder / "mid.csv"), pandas.read_csv(folder / "at.csv")
    assert written["age"].tolist() == middle.round().tolist()
    assert written["town"].tolist() == truth.mean["town"].tolist()
    assert cells.loc[cells["column"] == "age", "value"].astype(float).tolist() == middle[holed["age"].isna()].tolist()


def test_several_draws_stand_under_each_other(desk):
    folder, holed = desk
    words = ["impute", f"{folder}/run", f"{folder}/holes.csv", "--out", f"{folder}/three.csv", "--fill", "draws", "-n", "3"]
    assert main(words) == 0
    written = pandas.read_csv(folder / "three.csv")
    assert written["draw"].tolist() == [0] * 200 + [1] * 200 + [2] * 200
    truth = likeli.impute(likeli.load(folder / "run"), holed[["age", "town", "height"]], 3)
    assert written["age"].dtype.kind == "i"
    for i, part in written.groupby("draw"):
        assert part["age"].tolist() == truth.completed(i)["age"].tolist()
        assert part["town"].tolist() == truth.completed(i)["town"].tolist()


def test_classes_have_their_names_and_the_prior_is_said(desk, capsys):
    folder, _ = desk
    words = ["classify", f"{folder}/labels", f"{folder}/labelled.csv", "--likelihood.samples", "3"]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = likeli.load(folder / "labels")
    truth = likeli.classify(model, pandas.read_csv(folder / "fit.csv"), samples=3)
    assert found["p_dog"] == pytest.approx(truth.frame["dog"].tolist())
    assert found["class"] == truth.frame.idxmax(axis=1).tolist()
    assert found["prior"] == list(model.condition.shares)
    assert main([*words, "--prior", "0.5,0.6"]) == 2
    assert "prior: expected 2 probabilities" in capsys.readouterr().err


def test_rows_that_were_trained_on_are_told(desk, capsys):
    folder, _ = desk
    assert main(["anomaly", f"{folder}/run", f"{folder}/fit.csv", "--rate", "0.1", "--out", f"{folder}/odd.csv"]) == 0
    assert "160 of 200 rows are equal to rows that the model was fitted to" in capsys.readouterr().err
    odd = pandas.read_csv(folder / "odd.csv")
    assert odd["trained"].sum() == 160
    assert set(odd["column"]) <= {"age", "town", "height"}


def test_a_diffusion_fills_tables_and_arrays_and_says_what_its_draws_are(tmp_path, capsys):
    words = ["--model", "flow_matching", "--model.backbone.hidden", "8", "--steps", "2", "--seed", "0"]
    table = pandas.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["a", "b"]).assign(who="x")
    table.drop(columns="who").to_csv(tmp_path / "fit.csv", index=False)
    table.loc[3, "a"] = None
    table.to_csv(tmp_path / "holes.csv", index=False)
    assert main(["fit", f"{tmp_path}/fit.csv", "--kind", "real", *words, "--out", f"{tmp_path}/run"]) == 0
    capsys.readouterr()
    asked = ["--draws", "2", "--method", "replacement", "--json"]
    assert main(["impute", f"{tmp_path}/run", f"{tmp_path}/holes.csv", "--out", f"{tmp_path}/full.csv", *asked]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["answer"], about["method"], about["filled_cells"]) == ("approximate", "replacement", 1)
    full = pandas.read_csv(tmp_path / "full.csv")
    assert full.notna().all().all()
    assert full["who"].eq("x").all()
    images = np.random.default_rng(0).integers(0, 4, (20, 3, 3)).astype(np.uint8)
    np.save(tmp_path / "fit.npy", images)
    holed = images.astype(float)
    holed[:, 0] = np.nan
    np.save(tmp_path / "holes.npy", holed)
    assert main(["fit", f"{tmp_path}/fit.npy", "--kind", "pixels:4", *words, "--out", f"{tmp_path}/images"]) == 0
    asked = ["impute", f"{tmp_path}/images", f"{tmp_path}/holes.npy", *asked]
    assert main([*asked, "--fill", "draws", "--out", f"{tmp_path}/two.npy"]) == 0
    draws = np.load(tmp_path / "two.npy")
    assert draws.shape == (2, 20, 3, 3)
    assert (draws[:, :, 1:] == images[:, 1:]).all()
    assert main([*asked, "--cells", f"{tmp_path}/c.csv", "--out", f"{tmp_path}/three.npy"]) == 2


@pytest.mark.parametrize("words,message", [
    (["-n", "5", "--cells", "c.csv"], "n: expected at least 19 with --cells and --level 0.9"),
    (["--level", "1"], "level: expected a number between 0 and 1"),
    (["-n", "0"], "n: expected at least 1"),
])  # fmt: skip
def test_what_cannot_be_filled_so_is_one_line(desk, capsys, words, message):
    folder, _ = desk
    capsys.readouterr()
    assert main(["impute", f"{folder}/run", f"{folder}/holes.csv", "--out", f"{folder}/no.csv", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (folder / "no.csv").exists()

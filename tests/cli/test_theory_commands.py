"""`likeli latent` and `likeli verify`: what they draw and print is what the library computes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import likeli
from likeli.cli import main
from likeli.evaluation.collapse import diagnose_latents, reading_of_y
from likeli.latent.codes import decode_codes, embed, interpolate, traverse
from likeli.show.pictures import grid
from likeli.theory import check as verify


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent") / "vae"
    tiny = ["--model.latent_dim", "3", "--model.hidden", "8", "--steps", "6", "--train.batch", "32", "--quiet"]
    assert main(["fit", "digits", "--model", "vae", *tiny, "--out", str(folder)]) == 0
    return folder


def same(path, codes, model, columns):
    x = decode_codes(model, codes).flatten(0, codes.ndim - 2)
    return np.array_equal(np.asarray(Image.open(path)), np.asarray(grid(x, model.space, columns=columns)))


def test_a_traversal_is_the_librarys(fitted, tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert main(["latent", str(fitted), "--grid", "0,2", "--row", "4", "--steps", "5", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["codes"] == [5, 5, 3]
    model, (x, _) = likeli.load(fitted), likeli.load_data("digits").split("test")
    codes = traverse(embed(model, x[4:5])[0], [0, 2], torch.linspace(-2.5, 2.5, 5))
    assert same(out, codes, model, 5)


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_a_path_is_the_librarys(fitted, tmp_path, path):
    out = tmp_path / "path.png"
    assert main(["latent", str(fitted), "--between", "3,8", "--path", path, "--steps", "6", "--out", str(out)]) == 0
    model, (x, _) = likeli.load(fitted), likeli.load_data("digits").split("test")
    z = embed(model, x[[3, 8]])
    assert same(out, interpolate(z[0], z[1], 6, path), model, 6)


BAD = [
    (["--grid", "0,9"], "dims"),
    (["--grid", "a"], "grid: expected an integer, got a"),
    (["--grid", "0", "--row", "100000"], "row: expected test rows"),
    (["--between", "0,1,2"], "two or four"),
    (["--between", "0,1", "--steps", "1"], "steps"),
    (["--between", "0,1,2,3", "--path", "spherical"], "path: expected linear"),
]


@pytest.mark.parametrize("words,message", BAD)
def test_bad_walks_are_one_line(fitted, tmp_path, capsys, words, message):
    out = tmp_path / "x.png"
    assert main(["latent", str(fitted), *words, "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not out.exists()


def test_the_latents_of_doctor_are_the_librarys(fitted, capsys):
    assert main(["doctor", str(fitted), "--latents", "--rows", "100", "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    truth = diagnose_latents(likeli.load(fitted), likeli.load_data("digits").split("test")[0], rows=100, seed=3)
    assert found == json.loads(json.dumps(dataclasses.asdict(truth)))
    assert main(["doctor", str(fitted), "--latents", "--rows", "100", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    assert f"{truth.kl_by_level[0]:.3f}" in text
    assert f"{truth.active[0]} of 3" in text
    assert all(f"alarm: {alarm}" in text for alarm in truth.alarms)


def test_doctor_of_a_conditional_run_says_what_shuffling_y_costs(tmp_path, capsys):
    """The numbers are the library's, on the same rows, and the line beside them is `evaluate`'s."""
    folder = str(tmp_path / "run")
    assert main(["fit", "digits", "--model", "vae", "--labels", "--steps", "2", "--quiet", "--out", folder]) == 0
    capsys.readouterr()
    assert main(["doctor", folder, "--latents", "--rows", "80", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["reading_of_y"]
    x, y = (part[:128] for part in likeli.load_data("digits").split("test"))
    truth = reading_of_y(likeli.load(folder), x, y)
    assert found == vars(truth)
    assert truth.gap == pytest.approx(truth.own - truth.shuffled, abs=1e-9)
    assert main(["doctor", folder, "--latents", "--rows", "80"]) == 0
    text = capsys.readouterr().out
    assert str(truth) in text and f"{truth.own:.3f} nats; {truth.shuffled:.3f} for another's y" in text


@pytest.mark.parametrize("name,options,levels", [
    ("hvae", ["--model.latent_dims", "3,2,2", "--model.width", "8,8,8"], 3),
    ("markov_hvae", ["--model.latent_dims", "3,2", "--model.hidden", "8"], 2),
])
def test_doctor_has_a_row_for_every_level(tmp_path, capsys, name, options, levels):
    folder = str(tmp_path / name)
    assert main(["fit", "digits", "--model", name, *options, "--steps", "2", "--quiet", "--out", folder]) == 0
    capsys.readouterr()
    assert main(["doctor", folder, "--latents", "--rows", "80"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + levels]] == [str(t) for t in range(levels, 0, -1)]


def test_doctor_refuses_what_has_no_latents_in_one_line(tmp_path, capsys):
    folder = str(tmp_path / "gmm")
    assert main(["fit", "gaussian", "--model", "gmm", "--model.components", "1", "--quiet", "--out", folder]) == 0
    capsys.readouterr()
    assert main(["doctor", folder, "--latents"]) == 2
    error = capsys.readouterr().err.strip()
    assert "gmm has no latent variable with a posterior" in error and "\n" not in error


@pytest.mark.parametrize("words,message", [(["--rows", "1"], "rows: expected at least 2"), (["--data", "no.csv"], "no.csv")])
def test_bad_diagnoses_are_one_line(fitted, capsys, words, message):
    assert main(["doctor", str(fitted), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anomaly")
    out = folder / "gmm"
    assert main(["fit", "ring8", "--model", "gmm", "--model.components", "8", "--quiet", "--out", str(out)]) == 0
    strange = np.concatenate([likeli.load_data("ring8").split("valid")[0].numpy()[:300], np.full((3, 2), 9.0)])
    np.save(folder / "rows.npy", strange)
    return out, folder / "rows.npy"


def test_anomaly_is_the_librarys(ring, tmp_path, capsys):
    run, rows = ring
    assert main(["anomaly", str(run), str(rows), "--rate", "0.02", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    detector = likeli.anomaly(likeli.load(run), likeli.load_data("ring8").split("test")[0], rate=0.02)
    truth = detector(np.load(rows))
    assert found["p_value"] == pytest.approx(truth.p_value.tolist())
    assert found["flagged"] == truth.flagged.tolist() and all(found["flagged"][-3:])
    assert found["flagged_rows"] < 3 + 300 * 0.02 + 4 * (300 * 0.02) ** 0.5  # false alarm 1e-4 for ordinary rows
    assert found["rate_from"] < 0.02 < found["rate_to"]
    out = tmp_path / "strange.csv"
    assert main(["anomaly", str(run), str(rows), "--rate", "0.02", "--out", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "row,score,p_value,flagged,column,column_p,trained" and len(lines) == 304
    assert not any(line.endswith("True") for line in lines)  # validation rows, and made-up ones
    assert "303 rows flagged" in capsys.readouterr().out


@pytest.mark.parametrize("words,message", [
    (["--rate", "0"], "rate: expected a number between 0 and 1"),
    (["--rate", "0.00001"], "rate: expected at least 1/1001"),
    (["--reference", "no.npy"], "no.npy"),
])
def test_bad_detectors_are_one_line(ring, capsys, words, message):
    assert main(["anomaly", *map(str, ring), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_select_is_the_librarys_and_saves_the_best(tmp_path, capsys):
    out = tmp_path / "best"
    words = ["select", "ring8", "--model", "gmm", "--sizes", "2,8,12", "--model.covariance", "spherical", "--json"]
    assert main([*words, "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    x, _ = likeli.load_data("ring8").split("train")
    model = likeli.load(out)
    assert found["best"] == model.components == 8
    best = next(row for row in found["rows"] if row["size"] == 8)
    assert best["bic"] == pytest.approx(model.bic(x)) and best["aic"] == pytest.approx(model.aic(x))
    assert best["parameters"] == 8 - 1 + 16 + 8
    assert main([*words[:-1]]) == 0
    assert "best" in capsys.readouterr().out


def test_select_scores_every_size_of_ppca(capsys):
    assert main(["select", "ppca_draw", "--model", "ppca", "--sizes", "1,2,5", "--criterion", "aic", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    data = likeli.load_data("ppca_draw")
    for row in found["rows"]:
        model = likeli.PPCA(data.space, row["size"])
        model.fit_closed_form(data.split("train")[0])
        assert row["aic"] == pytest.approx(model.aic(data.split("train")[0]))
    assert found["best"] == min(found["rows"], key=lambda row: row["aic"])["size"]


@pytest.mark.parametrize("words,message", [
    (["--sizes", "a"], "sizes: expected an integer, got a"),
    (["--sizes", "2,2"], "sizes: expected every size once"),
    (["--sizes", "0"], "components: expected at least 1"),
    (["--sizes", "2", "--model.components", "3"], "components: expected --sizes"),
    (["--sizes", "2", "--model", "vae"], "invalid choice"),
])
def test_bad_selections_are_one_line(capsys, words, message):
    assert main(["select", "gaussian", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_verify_lists_every_check_and_runs_one(capsys):
    assert main(["verify", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checks"]
    assert [c["id"] for c in listed] == [c.id for c in verify.checks()]
    assert main(["verify", "--only", "R54,cross-entropy-splits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and all(r["error"] <= r["tolerance"] for r in found["checks"])
    of_row = {c["id"] for c in listed if "R54" in c["rows"]}
    assert "product-of-gaussians" in of_row and {r["id"] for r in found["checks"]} == of_row | {"cross-entropy-splits"}
    assert main(["verify", "--only", "R999"]) == 2


def test_a_check_that_fails_is_exit_code_one(monkeypatch, capsys):
    from likeli.theory import check

    wrong = check.Check("wrong", ("R1",), "1 = 2", 0.5, lambda: 1.0)
    monkeypatch.setitem(check._CHECKS, "wrong", wrong)
    assert main(["verify", "--only", "wrong"]) == 1
    assert "FAILED" in capsys.readouterr().out

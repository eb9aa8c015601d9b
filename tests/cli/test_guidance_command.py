"""`likeli sample --guidance` and `likeli guidance` on runs of a few steps."""

import json

import numpy as np
import pytest

from likeli.cli.app import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("guided")
    fit = ["fit", "digits", "--labels", "--model.hidden", "16", "--model.network", "mlp", "--steps", "5", "--quiet"]
    assert main([*fit, "--model", "vdm", "--out", str(root / "run")]) == 0
    assert main([*fit, "--model", "vdm", "--model.condition_dropout", "0", "--out", str(root / "sure")]) == 0
    plain = ["fit", "digits", "--model", "vae", "--steps", "2", "--quiet", "--out", str(root / "vae")]
    assert main(plain) == 0
    return root


def drawn(runs, out, *options, run="run"):
    argv = ["sample", str(runs / run), "-n", "3", "--steps", "4", "--out", str(out), "--overwrite", "--y", "7", *options]
    assert main(argv) == 0
    return np.load(out)


def test_the_ends_and_the_word(runs, tmp_path, capsys):
    out = tmp_path / "x.npy"
    plain = drawn(runs, out)
    assert "posterior" not in capsys.readouterr().out
    assert np.array_equal(plain, drawn(runs, out, "--guidance", "1"))
    assert np.array_equal(plain, drawn(runs, out, "--guidance", "1", run="run"))
    assert not (tmp_path / "x.npy.json").exists()
    drawn(runs, out, "--guidance", "3", "--interval", "0.1,5", "--rescale", "0.5", "--parallel", "0", "--radius", "3")
    assert "not a posterior" in capsys.readouterr().out
    assert "not a posterior" in json.loads((tmp_path / "x.npy.json").read_text())["note"]
    drawn(runs, out, "--guidance", "2", "--against", str(runs / "sure"))
    drawn(runs, out, "--guidance", "2", "--against", str(runs / "run"), run="sure")


def test_a_classifier_is_kept_and_taken_from_its_folder(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("likeli.diffusion.noisy_classifier.fit_noisy_classifier.__kwdefaults__", {"steps": 3, "seed": 0})
    out, judge = tmp_path / "x.npy", str(tmp_path / "judge")
    first = drawn(runs, out, "--guidance", "3", "--classifier", judge)
    monkeypatch.setattr("likeli.diffusion.noisy_classifier.fit_noisy_classifier", None)
    assert np.array_equal(first, drawn(runs, out, "--guidance", "3", "--classifier", judge))
    assert main(["sample", str(runs / "run"), "--y", "7", "--out", str(out), "--overwrite", "--classifier", judge]) == 2


def test_the_curve_and_its_picture(runs, tmp_path, capsys):
    out = tmp_path / "curve.png"
    argv = ["guidance", str(runs / "run"), "--scales", "1,2", "-n", "20", "--steps", "2", "--out", str(out), "--json"]
    assert main(argv) == 0
    rows = json.loads(capsys.readouterr().out)["scales"]
    assert [r["scale"] for r in rows] == [None, 1.0, 2.0]
    assert rows[0]["asked"] > 0.8  # the judge on rows that it did not see
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "argv, said",
    [
        (["sample", "run", "--y", "7", "--guidance", "nan"], "guidance: expected a finite number"),
        (["sample", "run", "--y", "7", "--guidance", "much"], "guidance"),
        (["sample", "run", "--y", "11", "--guidance", "2"], "labels from 0 to 9"),
        (["sample", "run", "--y", "sevn", "--guidance", "2"], "label"),
        (["sample", "run", "--y", "7", "--radius", "2"], "--guidance G beside it"),
        (["sample", "run", "--y", "7", "--guidance", "2", "--rescale", "2"], "rescale: expected a number from 0 to 1"),
        (["sample", "run", "--y", "7", "--guidance", "2", "--interval", "2,1"], "interval"),
        (["sample", "run", "--y", "7", "--guidance", "2", "--against", "nowhere"], "nowhere"),
        (["sample", "run", "--y", "7", "--guidance", "2", "--against", "vae"], "against: expected a Gaussian diffusion"),
        (["sample", "sure", "--y", "7", "--guidance", "2"], "condition_dropout=0.1"),
        (["sample", "vae", "--guidance", "2"], "guidance: expected a run of a diffusion model"),
        (["guidance", "sure"], "condition_dropout=0.1"),
        (["guidance", "vae"], "guidance: expected a run of a diffusion model"),
        (["guidance", "run", "-n", "3"], "n: expected at least 20"),
        (["guidance", "run", "--out", "x.gif"], "ends in .png"),
    ],
)
def test_bad_requests_are_one_line(runs, tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    words = [str(runs / a) if a in ("run", "sure", "vae") else a for a in argv]
    if words[0] == "sample":
        words += ["-n", "2", "--out", str(tmp_path / "x.npy")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "x.npy").exists()


def test_a_text_is_asked_for_and_an_unknown_word_refused(tmp_path, capsys):
    run, out = str(tmp_path / "scenes"), str(tmp_path / "x.png")
    fit = ["fit", "scenes:n=40,size=16,objects=2,unseen=1", "--labels", "captions", "--model", "flow_matching", "--steps", "2"]
    assert main([*fit, "--model.network", "mlp", "--model.hidden", "16", "--quiet", "--out", run]) == 0
    ask = ["sample", run, "-n", "2", "--steps", "2", "--out", out, "--guidance", "2", "--text"]
    assert main([*ask, "two purple bricks"]) == 2
    assert "unknown word 'purple'" in capsys.readouterr().err
    assert main([*ask, "two red bricks", "--encoder", str(tmp_path)]) == 2
    assert "encoder: expected a run whose condition is a vector, got another" in capsys.readouterr().err
    assert main([*ask, "two red bricks"]) == 0
    assert main(["sample", run, "-n", "2", "--out", out, "--overwrite"]) == 2
    assert "label: expected" in capsys.readouterr().err
    assert main(["evaluate", run, "--rows", "4"]) == 0

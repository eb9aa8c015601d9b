"""A run that knows nothing of log p(x): why is said, and its samples are judged in place of it."""

import json

import pytest

from likeli.cli.app import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("gan") / "run"
    options = ["--steps", "12", "--train.validate_every", "4", "--model.hidden", "8", "--quiet"]
    assert main(["fit", "ring8", "--model", "gan", "--out", str(out), *options]) == 0
    return str(out)


def said(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_evaluate_says_why_and_judges_the_samples(run, capsys):
    capsys.readouterr()
    text = said(capsys, "evaluate", run, "--rows", "80")
    assert text.startswith("nothing: gan has no log p(x)")
    assert "how near 80 samples are" in text
    found = json.loads(said(capsys, "evaluate", run, "--rows", "80", "--json"))
    assert (found["knows"], found["nats"], found["examples"]) == ("nothing", None, 80)
    names = {metric["name"] for metric in found["metrics"]}
    assert {"Fréchet distance", "precision", "recall", "sliced Wasserstein"} <= names
    assert all(metric["m"] == 80 for metric in found["metrics"])


def test_rows_of_log_p_are_refused_in_one_line(run, capsys, tmp_path):
    assert main(["evaluate", run, "--out", str(tmp_path / "rows.csv")]) == 2
    assert "gan has no log p(x)" in capsys.readouterr().err
    assert not (tmp_path / "rows.csv").exists()


def test_the_page_shows_by_what_the_step_was_chosen(run, capsys, tmp_path):
    said(capsys, "report", run, "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "distance of samples from validation rows over seconds of training" in page
    step = json.loads(said(capsys, "info", run, "--json"))["metrics"]["best"]["step"]
    assert f"the weights of step {step} were kept" in page

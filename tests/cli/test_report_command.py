"""`likeli report` writes one page on a run of any family, and `compare --out` one on several."""

import html
import json
import re

import pytest

import likeli
from likeli.cli import main
from likeli.cli.contest import Contest
from likeli.models import families
from printed import in_this_process

SMALL = likeli.CoderBackbone((8,))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    digits, ring = likeli.load_data("digits"), likeli.load_data("ring8")
    likeli.fit(likeli.GMM(ring.space, 8), ring, steps=3, out=folder / "gmm")
    likeli.fit(likeli.AE(digits.space, 2, (8,)), digits, steps=2, out=folder / "ae")
    vae = likeli.VAE(digits.space, 2, SMALL, condition=digits.condition)
    likeli.fit(vae, digits, steps=30, log_every=1, out=folder / "vae")
    (folder / "book.txt").write_text("To be, or not to be? " * 60)
    book = likeli.load_data(folder / "book.txt", context=16)
    text = likeli.Autoregressive(book.space, hidden=(8,))
    likeli.fit(text, book, steps=2, out=folder / "text")
    return folder


def page_of(runs, name, capsys, *words, code=0):
    capsys.readouterr()
    assert main(["report", str(runs / name), "--json", *words]) == code
    found = json.loads(capsys.readouterr().out)
    return found, "" if code else (runs / f"{name}.html").read_text(encoding="utf-8")


def test_a_run_of_points_has_its_number_its_parts_and_a_drawing(runs, capsys):
    found, page = page_of(runs, "gmm", capsys)
    exact = likeli.evaluate(likeli.load(runs / "gmm"), likeli.load_data("ring8"))
    assert found["nats"] == exact.nats
    assert f"{exact.nats:.2f} ± {exact.stderr:.2f}" in page
    assert page.count("data:image/svg+xml") == 2  # the held-out points and those drawn
    assert "change of units" in page
    assert re.search(rf"{likeli.checkpoint.inspect(runs / 'gmm')['metrics']['step']} steps?, seed 0", page)
    assert "area 0." in page
    assert not re.search(r"https?://|<script", page)


def test_a_conditional_run_has_curves_and_tests_of_its_latents(runs, capsys):
    _, page = page_of(runs, "vae", capsys, "--likelihood.samples", "3", "--rows", "50")
    assert "50 of 180 rows were looked at" in page
    assert "KL(q(z|x) ‖ p(z))" in page
    assert "Learning curves" in page
    assert re.search(r"the weights of step \d+ were kept", page)
    assert "--likelihood.samples=3" in page


def test_a_run_of_text_shows_texts_and_one_of_a_table_its_columns(runs, capsys):
    _, page = page_of(runs, "text", capsys)
    model = likeli.load(runs / "text")
    for text in model.space.decode(model.sample(3)):
        assert text in html.unescape(page)
    _, page = page_of(runs, "gmm", capsys, "--overwrite")
    assert "<th scope=\"row\">x0</th>" in page


def test_a_run_without_a_number_says_why(runs, capsys):
    found, page = page_of(runs, "ae", capsys)
    assert found["nats"] is None
    assert "nothing" in page
    assert "Where the nats go" not in page
    assert found["notes"][0].split(":")[0] in page
    page_of(runs, "ae", capsys, code=2)  # nothing is written over
    page_of(runs, "ae", capsys, "--overwrite")


def test_a_comparison_of_nothing_named_is_of_all_that_can(tmp_path, capsys, monkeypatch):
    """A small table with a category and a hole: families without log p and those that refuse are rows with their reasons."""
    monkeypatch.setattr(Contest, "_call", in_this_process)
    rows = [f"{i % 7},{'uv'[i % 2]},{i / 3 if i % 9 else ''}" for i in range(120)]
    (tmp_path / "t.csv").write_text("\n".join(["n,c,r", *rows]), encoding="utf-8")
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "t.csv"), "--steps", "1", "--samples", "0", "--quiet", "--json"]) == 0
    found = {row["model"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(found) >= {name for name, cls in families().items() if cls.__module__.startswith("likeli.")}
    for name in ("independent", "categorical_mixture", "gmm", "ppca", "vae"):
        assert found[name]["nats"] is not None, found[name]
    assert "missing" in found["flow"]["notes"][0]
    assert found["ae"]["nats"] is None
    capsys.readouterr()
    assert main(["list", "--on", str(tmp_path / "t.csv"), "--json"]) == 0
    takes = {row["family"]: row["fits"] for row in json.loads(capsys.readouterr().out)["families"]}
    assert takes["independent"]
    assert not takes["flow"]


def test_likelihood_and_samples_stand_side_by_side(tmp_path, capsys, monkeypatch):
    """Families without log p have a "-" and a reason, unnormalised ones no rank, and samples of all that can are judged."""
    monkeypatch.setattr(Contest, "_call", in_this_process)
    words = ["compare", "gaussian", "--models", "ebm,ae,distilled,gmm", "--steps", "2", "--quiet", "--samples", "64"]
    capsys.readouterr()
    assert main(words) == 0
    text = capsys.readouterr().out
    table = text[text.index("samples of") :].splitlines()
    lines = {line.split()[0]: line for line in table[2:6]}
    assert "Z unknown" in lines["ebm"] and "±" in lines["ebm"]
    assert lines["distilled"].split()[1] == "-" and "±" in lines["distilled"]
    assert lines["ae"].split()[1:] == ["-"] * 4
    assert float(lines["gmm"].split()[1]) < 0
    assert "log p" in next(line for line in text.splitlines() if line.startswith("distilled: "))
    assert "cannot sample" in table[-1]
    assert max(map(len, table[:6])) <= 80
    assert main([*words, "--samples", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == []
    assert main([*words, "--samples", "5"]) == 2


def test_processes_of_a_contest_print_and_end_as_the_command_does(tmp_path):
    contest = Contest([], 1, lambda line: None)
    assert contest._call("list", "gmm", "--json")["name"] == "gmm"
    assert "unknown family" in contest._call("list", "gmn", "--json")["error"]


def test_a_comparison_that_is_kept_has_ranks_values_and_a_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Contest, "_call", in_this_process)
    words = ["compare", "gaussian", "--models", "ppca,gmm,ae", "--steps", "2", "--quiet", "--json"]
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "c")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["ranks"]) == {"ppca", "gmm"}
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert found["report"] == str(tmp_path / "c" / "report.html")
    assert page.count("<tr><td>–</td>") == 1
    judged = {row["model"]: row for row in found["samples"]}
    assert "cannot sample" in judged["ae"]["reason"]
    for name in ("ppca", "gmm"):
        area = judged[name]["classifier_area"]
        assert judged[name]["draws"] == area["m"] == 256
        assert 0.4 < area["floor"] < 0.6  # training rows against held-out ones: four standard errors
        assert f"({area['floor']:.2f})</td>" in page
    for row in found["rows"][:2]:
        values = likeli.evaluation.likelihood.read_values(tmp_path / "c" / f"{row['model']}.csv")
        assert values.mean()[0] == pytest.approx(row["nats"], rel=1e-12)

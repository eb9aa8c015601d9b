"""The demo, with budgets of a moment and its processes in this one."""

import contextlib
import io
import json

import pytest
from PIL import Image

import likeli
from likeli.cli import main, quality
from likeli.cli.contest import Contest
from likeli.cli.verbs.demo import NEURAL, YARDSTICKS
from likeli.evaluation.likelihood import ROW
from printed import ROOT

FAMILIES = {"vae", *YARDSTICKS, "gmm", "ppca"}


def here(self, *words):
    """What the process would print, without its two seconds of imports."""
    out = io.StringIO()
    quick = [w.replace("samples=500", "samples=2") for w in words]
    with contextlib.redirect_stdout(out):
        main(quick)
    return json.loads(out.getvalue())


def demo(capsys, monkeypatch, folder, *words):
    monkeypatch.setattr(Contest, "_call", here)
    monkeypatch.setattr("likeli.cli.verbs.demo.NEURAL", {"vae": 1.0})
    monkeypatch.setitem(quality.judge_samples.__kwdefaults__, "draws", 48)
    monkeypatch.setattr(quality, "HELD", 60)
    capsys.readouterr()
    assert main(["demo", "--out", str(folder), "--minutes", "0.002", "--jobs", "1", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_demo_says_how_many_families_it_fits():
    counts = {2: "two", 6: "six", 8: "eight"}
    six, two = counts[len(NEURAL) + 2], counts[len(YARDSTICKS)]  # and gmm and ppca
    for page in ("Makefile", "docs/cli.md", "src/likeli/cli/verbs/demo.py"):
        assert f"{six} families and {two} yardsticks" in (ROOT / page).read_text(encoding="utf-8")
    assert f"fits {counts[len(NEURAL) + 2 + len(YARDSTICKS)]} models" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_demo_ranks_every_family_and_writes_its_page(tmp_path, capsys, monkeypatch):
    found = demo(capsys, monkeypatch, tmp_path / "demo")
    assert {r["model"] for r in found["rows"]} == FAMILIES
    assert all(tuple(r) == ROW for r in found["rows"]), [r.get("error") for r in found["rows"]]
    assert {r["measure"] for r in found["rows"]} == {"mass"}
    nats = [r["nats"] for r in found["rows"]]
    assert nats == sorted(nats, reverse=True)
    assert sum("beat" in n for n in found["notes"]) == 1
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in FAMILIES)
    assert page.count("<img") >= 1 + len(FAMILIES)
    assert Image.open(tmp_path / "demo" / "samples.png").width > 500
    for name in FAMILIES:
        assert likeli.load(tmp_path / "demo" / name).kind() == name
    again = demo(capsys, monkeypatch, tmp_path / "demo", "--overwrite")
    exact = {r["model"]: r["nats"] for r in found["rows"] if r["knows"] == "exact"}
    assert exact == {r["model"]: r["nats"] for r in again["rows"] if r["knows"] == "exact"}


@pytest.mark.slow
def test_the_demo_reaches_its_marks(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
    bits = {r["model"]: r["bits_per_dim"] for r in json.loads(capsys.readouterr().out)["rows"]}
    assert min(bits.values()) <= 1.87
    assert bits["vdm"] <= 2.15
    assert all(bits[n] < min(bits[y] for y in YARDSTICKS) for n in NEURAL)

"""`likeli synthesise` and the page of `likeli anomaly`."""

import html.parser
import json

import numpy as np
import pandas as pd
import pytest

from likeli.cli.app import main


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("synthesise"), np.random.default_rng(0)
    kind = rng.choice(["<b>", "y & z"], 500)
    size = np.where(kind == "<b>", 0, rng.poisson(5, 500))
    frame = pd.DataFrame({"size": size, "kind": kind, "width": rng.normal(size, 1.0).round(2)})
    frame.loc[::10, "kind"] = None
    frame.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


class Seen(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.headings, self.cells, self.tag = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        self.links += [v for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        if self.tag in ("h1", "h2") and data.strip():
            self.headings.append(data.strip())
        elif self.tag == "td":
            self.cells.append(data)


def test_rows_and_a_page(table, tmp_path, capsys):
    out = tmp_path / "s.csv"
    words = [str(table), "--rows", "200", "--out", str(out), "--model.rounds", "20", "--gaps", "--keep", str(tmp_path / "run")]
    assert main(["synthesise", *words, "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    drawn, real = pd.read_csv(out), pd.read_csv(table)
    assert list(drawn.columns) == list(real.columns)
    assert len(drawn) == said["rows"] == 200
    assert set(drawn["kind"].dropna()) <= set(real["kind"].dropna())
    assert 0.02 < drawn["kind"].isna().mean() < 0.25  # a tenth of the real rows have a gap there
    assert drawn["size"].between(real["size"].min(), real["size"].max()).all()
    assert {f["part"] for f in said["figures"]} == {"columns", "pairs", "told apart", "use", "remembered", "log p"}
    assert all(f["n"] > 0 for f in said["figures"])
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    seen = Seen(page)
    assert "Are training rows remembered?" in seen.headings
    assert "no promise of privacy" in page
    assert all(link.startswith(("#", "data:")) for link in seen.links)
    assert "<b>y" not in page and "&lt;b&gt;" in page
    assert main(["synthesise", *words]) == 2  # nothing is overwritten
    run, strange = str(tmp_path / "run"), str(tmp_path / "a.html")
    assert main(["anomaly", run, str(table), "--rate", "0.05", "--html", strange, "--out", str(tmp_path / "a.csv")]) == 0
    found = Seen((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert found.headings[1:] == ["At which rate of false alarms?", "Rows that are flagged", "Do it again"]
    flagged = pd.read_csv(tmp_path / "a.csv")
    flagged = flagged[flagged["flagged"]].sort_values("score", ascending=False)
    assert found.cells[2::5] == list(flagged["column"])


@pytest.mark.parametrize(
    "words, told",
    [
        (["--rows", "3"], "rows: expected at least 40"),
        (["--target", "widht"], "did you mean width"),
        (["--report", "page.txt"], "report: expected a name that ends in .html"),
        (["--labels", "kind"], "labels: expected nothing"),
    ],
)
def test_bad_words_are_one_line_before_any_work(table, tmp_path, capsys, words, told):
    assert main(["synthesise", str(table), "--out", str(tmp_path / "s.csv"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""The report opens offline, escapes what came from the data, and says it when the yardsticks win."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch

from likeli.evaluation.ledger import Item, Ledger
from likeli.evaluation.two_sample import ClassifierTest
from likeli.show.pictures import LINES, curves, grid, on_paper, picture, png, strip
from likeli.show.report import Contender, Report, verdict
from likeli.spaces import Pixels, Real, Tokens

EVIL = "<script>alert('x')</script>"


def row(model, bits, **more):
    number = {"nats": None if bits is None else -100.0 * bits, "stderr": 1.0, "bits_per_dim": bits}
    facts = {"model": model, "knows": "lower bound", "measure": "mass", "examples": 9, "seconds": 1.0, "parameters": 1234}
    return facts | number | {"seed": 0, "notes": [EVIL]} | more


class Checker(HTMLParser):
    """Collects tags, and every address that the page refers to."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.names, self.pictures, self.stack = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in {"src", "href", "action", "data"}]
        self.names += [v for k, v in attrs if k == "id"]
        self.pictures += [dict(attrs)] if tag == "img" else []
        if tag not in {"meta", "img", "br"}:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


@pytest.fixture
def report():
    image = grid(torch.zeros(4, 8, 8), Pixels((8, 8), 17))
    history = [{"step": i, "loss": 100.0 / i, "valid": 90.0 / i, "seconds": float(i)} for i in range(1, 30)]
    failed = dict.fromkeys(row("x", 1.0)) | {"model": EVIL, "notes": [], "error": f"no {EVIL}"}
    parts = Ledger((Item("reconstruction", -60.0, 0.5), Item("− KL", -6.5, math.nan)), Item("bound", -66.5, 0.75), 9)
    test = ClassifierTest(0.75, 0.05, 0.7, 0.05, 0.01, (30, 32))
    kept = {"step": 20, "valid": 4.5}
    entries = [
        Contender(row("vae", 1.5), history, image, "neural", rank=1, kept=kept, steps=29, ledger=parts, told_apart=test),
        Contender(row("mixture", 2.0, knows="exact"), (), image, "yardstick", rank=2, alarms=[EVIL]),
        Contender(row("flow", 2.5), history, None, "neural", rank=2),
        Contender(failed),
    ]
    return Report(EVIL, {"data": EVIL}, 64, entries, ["a note"], image, [f"likeli fit {EVIL}"])


def test_the_page_is_whole_and_refers_to_nothing(report):
    page, checker = report.html(), Checker()
    checker.feed(page)
    assert not checker.stack
    assert checker.addresses
    inside = [a.removeprefix("#") for a in checker.addresses if not re.match(r"data:image/(png|svg\+xml);base64,", a)]
    assert inside == checker.names  # the table of contents, in the order of the page
    assert len(set(inside)) == len(inside) == 8
    assert not re.search(r"https?://|url\(|@import|<link|<iframe", page)
    assert "default-src 'none'" in page


def test_every_picture_says_what_it_shows(report):
    page, checker = report.html(), Checker()
    checker.feed(page)
    alts = [p["alt"] for p in checker.pictures]
    assert len(alts) == len(set(alts)) == 5  # held-out data, two sets of samples, two learning curves
    bits = 1 / (64 * math.log(2))
    for model in ("vae", "flow"):
        (alt,) = [a for a in alts if f"curves of {model}" in a]
        assert f"training batches from {100 * bits:.2f} to {100 / 29 * bits:.2f}" in alt
        assert f"validation rows from {90 * bits:.2f} to {90 / 29 * bits:.2f}" in alt
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == 5
    assert all(captions)
    assert sum(f"validation rows end at {90 / 29 * bits:.3f}" in c for c in captions) == 2


def test_nothing_from_the_data_becomes_markup(report):
    page, checker = report.html(), Checker()
    checker.feed(page)
    assert "script" not in checker.tags
    assert page.count("&lt;script&gt;") >= 5


def test_kinds_errors_and_notes_are_in_the_page(report):
    page = report.html()
    for words in ("lower bound", "exact: log p(x) itself", "a note", "1.500 ± 0.010", "1,234", "likeli fit"):
        assert words in page


def test_a_page_says_where_the_nats_go_what_was_tested_what_was_kept_and_who_shares_a_rank(report):
    page = report.html()
    said = ("-60.000", "-66.500", "0.750 ± 0.050, p = 0.01", "the weights of step 20 were kept", "these rows cannot tell them")
    for words in said:
        assert words in page
    assert page.count("1.500 bits/dim, 29 steps, seed 0") == 2
    assert re.findall(r"<tr><td>(.)</td>", page) == ["1", "2", "2", "–"]
    alone = replace(report, entries=[replace(report.entries[2], rows=(), rank=1)], real=None).html()
    for words in ("Samples", "Where the nats go", "Can samples be told", "Learning curves", "share a rank"):
        assert words not in alone


def test_curves_take_the_colour_of_the_page_and_mark_the_kept_step(report):
    (first, _) = report.learning()
    tree = ElementTree.fromstring(first.image)
    assert tree.tag.endswith("svg")
    assert "currentColor" in first.image
    assert "prefers-color-scheme:dark" in first.image
    colours = set(re.findall(r"#[0-9a-f]{6}", first.image))
    assert colours == {*LINES[:2], "#e03131"}
    texts = "".join(tree.itertext())
    assert "bits/dim of the loss" in texts
    assert "seconds of training" in texts
    assert "kept" in texts
    assert "kept" not in "".join(ElementTree.fromstring(report.learning()[1].image).itertext())


def test_a_grid_for_a_page_of_any_colour_is_clear_between_its_images():
    x = torch.zeros(3, 2, 2, dtype=torch.long)
    clear = grid(x, Pixels((2, 2)), columns=2, zoom=1, gap=1, clear=True)
    alpha = torch.tensor(list(clear.getchannel("A").tobytes())).reshape(7, 7)
    assert (alpha == 255).sum() == 3 * 4
    assert (alpha[0] == 0).all()
    assert on_paper(clear).tobytes() == grid(x, Pixels((2, 2)), columns=2, zoom=1, gap=1).tobytes()


def test_the_verdict_says_who_loses():
    neural = [Contender(row(name, bits), role="neural") for name, bits in (("a", 1.5), ("b", 2.2))]
    entries = [*neural, Contender(row("y", 2.0), role="yardstick")]
    first, second = verdict(entries)
    assert "a (1.500 bits/dim) beats the yardsticks y (2.000)" in first
    assert "b (2.200 bits/dim) does not beat y (2.000)" in second
    gone = Contender(row("c", None), role="neural")
    assert verdict([gone, entries[2]]) == ["c has no number, so it beats no yardstick."]
    assert verdict(entries[:2]) == []


def test_a_grid_holds_every_pixel():
    space = Pixels((2, 3), levels=5)
    x = torch.arange(5 * 6).reshape(5, 2, 3) % 5
    image = torch.tensor(list(grid(x, space, columns=2, zoom=1, gap=1).tobytes())).reshape(3 * 3 + 1, 2 * 4 + 1, 3)
    for i in range(5):
        top, left = 1 + i // 2 * 3, 1 + i % 2 * 4
        assert torch.equal(image[top : top + 2, left : left + 3, 0], (x[i] * 255 / 4).round().long())
    assert (image[7:, 5:] == 255).all()  # the sixth place is paper


def test_pictures_of_what_can_be_shown():
    assert picture(torch.randn(20, 2), Real((2,))).size == (550, 550)
    assert picture(torch.randint(0, 256, (4, 3, 5, 5)), Pixels((3, 5, 5))).mode == "RGB"
    with pytest.raises(Exception, match="images or two columns"):
        picture(torch.zeros(2, 4, dtype=torch.long), Tokens(4, 3))
    with pytest.raises(ValueError, match="at most 100000000 pixels"):
        grid(torch.zeros(1, 1, 1).expand(50_000, 60, 60), Pixels((60, 60)))
    both = strip({"a": grid(torch.zeros(4, 8, 8), Pixels((8, 8))), "b": grid(torch.zeros(4, 8, 8), Pixels((8, 8)))})
    assert both.width > both.height
    line = curves({"loss": ([0.0, 1.0, 2.0], [5.0, 1.0, float("nan")])}, title="t", x="x", y="y")
    assert png(line).startswith(b"\x89PNG")

"""From a book to samples that begin as asked and holes that are filled, on the command line; and what is refused there."""

import csv
import json
import math
import random
import re

import numpy as np
import pytest
import torch

import likeli
from likeli.cli import main
from likeli.cli.options import Parser
from likeli.cli.verbs import compare
from likeli.random import seeded

BOOK = "".join(random.Random(0).choices("abcde \n", k=3000))
FAMILY = '''
"""Symbols that are as likely as each other, those that are given kept."""
import math
from typing import ClassVar
import torch
from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.spaces import Space, counted

class PlainLetters(GenerativeModel):
    """Uniform."""
    knows: ClassVar = Knows.EXACT
    strategy: ClassVar = "closed_form"
    def __init__(self, space: Space):
        super().__init__(space)
        self.spread = torch.nn.Parameter(torch.zeros(()))
    def fit_closed_form(self, x, y=None, *, seed=0):
        """Nothing to learn."""
    def loss(self, x, y=None):
        """-log p(x)."""
        return counted(x, self.space.end).sum(1) * math.log(self.space.vocab)
    def measure_likelihood(self, x, y=None):
        """Exact."""
        return LogLikelihood(-self.loss(x), Knows.EXACT, "mass", dimensions=self.space.dimensions)
    def draw(self, noise, y=None, *, given=None):
        """Uniform symbols where none is given."""
        x = (noise.uniform(self.space.length) * self.space.vocab).long().clamp(max=self.space.vocab - 1)
        return x if given is None else torch.where(given < 0, x, given)
'''


def run(*words):
    return main([str(w) for w in words])


def output(capsys, *words):
    capsys.readouterr()
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "book.txt").write_text(BOOK)
    (folder / "lines.txt").write_text("\n".join(BOOK[i : i + 3 + i % 5].replace("\n", "a") for i in range(0, 900, 9)) + "\n")
    (folder / "family.py").write_text(FAMILY)
    plain = ["--model", "plain_letters", "--plugin", folder / "family.py", "--quiet"]
    assert run("fit", folder / "book.txt", "--context", 16, *plain, "--out", folder / "book") == 0
    assert run("fit", folder / "lines.txt", "--unit", "line", *plain, "--out", folder / "lines") == 0
    assert run("fit", folder / "book.txt", "--context", 16, "--model", "independent", "--quiet", "--out", folder / "free") == 0
    assert run("fit", "digits", "--model", "independent", "--quiet", "--out", folder / "digits") == 0
    return folder


@pytest.fixture()
def sample(made, capsys):
    def texts(name, *words, **_):
        return output(capsys, "sample", made / name, *words, "--plugin", made / "family.py")["texts"]

    return texts


def test_samples_begin_as_they_are_asked_to(sample):
    texts = sample("book", "-n", 5, "--prompt", "ab\nc", "--length", 40)
    assert [len(t) for t in texts] == [40] * 5
    assert all(t.startswith("ab\nc") for t in texts)
    assert len(set(texts)) == 5
    assert sample("book", "-n", 3, "--prompt", "ab\nc", "--length", 10) == [t[:10] for t in texts[:3]]
    assert sample("book") == sample("book", "-n", 1, "--length", 16)
    assert sample("book", "-n", 2, "--prompt", "ab\nc", "--length", 40, "--seed", 1) != texts[:2]


def test_holes_are_filled_and_nothing_else(sample):
    texts = sample("book", "-n", 300, "--infill", "ab__ c_d")
    assert {len(t) for t in texts} == {8}
    assert all(re.fullmatch("ab..\\ c.d", t, re.DOTALL) for t in texts)
    # 300 draws of 7 symbols in 3 holes: none is missing but with a chance of 21 · (6/7)^300 < 1e-18
    assert all({t[i] for t in texts} == set("abcde \n") for i in (2, 3, 6))
    assert all(re.fullmatch("b.b", t, re.DOTALL) for t in sample("lines", "-n", 9, "--infill", "b#b", "--hole", "#"))


def test_lines_end_and_files_hold_them(made, sample, capsys):
    texts = sample("lines", "-n", 50, "--prompt", "ab")
    assert all(t.startswith("ab") for t in texts)
    assert len({len(t) for t in texts}) > 1
    out = made / "s.txt"
    words = ["sample", made / "lines", "-n", 50, "--prompt", "ab", "--plugin", made / "family.py"]
    assert run(*words, "--out", out, "--overwrite") == 0
    assert out.read_text() == "".join(t + "\n" for t in texts)
    assert run(*words, "--out", made / "s.csv", "--overwrite") == 0
    assert [row["text"] for row in csv.DictReader((made / "s.csv").open(newline=""))] == texts
    assert run("sample", made / "free", "-n", 3, "--out", made / "w.txt", "--overwrite") == 0
    assert (made / "w.txt").read_text().count("\n" + "-" * 20 + "\n") == 2
    capsys.readouterr()
    assert run(*words[:3], 2, *words[4:]) == 0
    assert capsys.readouterr().out.splitlines() == texts[:2]


def test_scores_and_evaluations_say_bits_per_symbol_and_byte(made, capsys):
    plugin = ["--plugin", made / "family.py"]
    row = output(capsys, "evaluate", made / "book", *plugin)
    assert row["bits_per_symbol"] == pytest.approx(math.log2(7))
    assert row["bits_per_byte"] == pytest.approx(math.log2(7))
    assert output(capsys, "evaluate", made / "digits")["bits_per_symbol"] is None
    (made / "few.txt").write_text("ab\n\nabc\n")
    found = output(capsys, "score", made / "lines", made / "few.txt", *plugin)
    vocab = likeli.load_data(made / "lines.txt", unit="line").space.vocab
    assert found["nats"] == pytest.approx([-n * math.log(vocab) for n in (3, 1, 4)])
    assert found["bits_per_symbol"] == pytest.approx([math.log2(vocab)] * 3)
    assert found["bits_per_byte"] == found["bits_per_symbol"]
    capsys.readouterr()
    assert run("evaluate", made / "book", *plugin) == 0
    assert f"bits per byte: {math.log2(7):.4f} ± 0.0000" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    ("sample book --prompt xyz", "prompt: line 1, column 1: character 'x' is not among the 7"),
    ("sample book --prompt=", "prompt: expected a text .* got an empty one"),
    ("sample book --prompt abcdeabcdeabcdea", "prompt: expected at most 15 symbols, one less than the context, got 16"),
    ("sample book --prompt ab\udcc3", "prompt: line 1, column 3: expected UTF-8, got half a character"),
    ("sample book --prompt ab --length 2", "length: expected more symbols than the prompt's 2, got 2"),
    ("sample book --length 0", "length: expected more symbols"),
    ("sample lines --length 99", "length: expected at most 7, the longest line"),
    ("sample book --infill abc", "infill: expected a text with holes, _ for each symbol"),
    ("sample book --infill ____", "infill: expected a text around its holes"),
    ("sample book --infill=", "infill: expected a text with holes"),
    ("sample book --infill ab_z", "infill: line 1, column 4: character 'z'"),
    ("sample book --infill abcdeabcdeabcdea_", r"infill: expected at most 16 symbols \(the context\), got 17"),
    ("sample book --infill a_b --hole __", "hole: expected one character"),
    ("sample book --infill a_b --prompt a", "infill: expected no --prompt and no --length"),
    ("sample free --prompt a", "independent draws whole examples"),
    ("sample free --length 99", "independent draws whole examples"),
    ("sample digits --prompt a --out d.npy", "prompt: expected a run on text, got one on pixels"),
    ("sample digits", "out: expected --out FILE, got nothing"),
    ("score book {0}/lines.txt.npy", "symbols from 0 to 6, got 7"),
    ("score lines {0}/long.txt", r"long.txt: line 2: expected at most 7 symbols \(the context\), got 8"),
    ("score lines {0}/other.txt", "other.txt: line 3, column 2: character 'Z'"),
    ("score lines {0}/half.txt", "half.txt: line 1 is not UTF-8"),
    ("score lines {0}/empty.txt", "empty.txt: expected .* got an empty"),
])
def test_bad_input_is_one_line(words, message, made, capsys):
    np.save(made / "lines.txt.npy", np.full((2, 16), 7))
    (made / "long.txt").write_text("ab\nabcdeabc\n")
    (made / "other.txt").write_text("ab\nab\naZ\n")
    (made / "half.txt").write_bytes("a\u00e9".encode()[:2] + b"\n")
    (made / "empty.txt").write_bytes(b"")
    verb, name, *rest = words.format(made).split(" ")
    capsys.readouterr()
    assert run(verb, made / name, *rest, "--plugin", made / "family.py") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, told), told


@pytest.mark.slow
def test_compare_reads_the_data_as_fit_does(tmp_path, capsys):
    with seeded(0):
        cells = torch.randn(120).tolist()
    (tmp_path / "log.csv").write_text("a,code\n" + "".join(f"{v:.4f},{[200, 404, 500][i % 3]}\n" for i, v in enumerate(cells)))
    options = ["--categorical", "code", "--quiet"]
    row = output(capsys, "compare", tmp_path / "log.csv", "--models", "independent", *options)["rows"][0]
    assert run("fit", tmp_path / "log.csv", "--model", "independent", *options, "--out", tmp_path / "run") == 0
    assert row["nats"] == output(capsys, "evaluate", tmp_path / "run")["nats"]


def test_compare_hands_on_how_a_text_is_read():
    parser = Parser()
    parser.add_argument("--plugin", default=[])
    compare.add_arguments(parser)
    text = ["--context=8", "--unit=line", "--vocab=5", "--unknown=?", "--stride=2", "--cut"]
    args = parser.parse_args(["book.txt", "--categorical=a,b", *text])
    args.dotted = {"train": []}
    assert {"--categorical=a,b", *text} <= set(compare.fit_arguments(args, "vae", {"model": []}))

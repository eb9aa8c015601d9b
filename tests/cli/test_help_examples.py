"""Every example that a `--help` prints runs, on runs and files of a moment."""

import re
import shutil
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import likeli
from likeli.cli import main
from likeli.cli.app import commands
from likeli.data.readers.h5ad import write_h5ad
from printed import place, shell

__all__ = ["place"]
HIDDEN = likeli.DenoiserBackbone(network="mlp", hidden=(8,))


def examples(verb):
    """The commands of a verb's description, without what is said beside them, one set of spaces to the right."""
    doc = import_module(f"likeli.cli.verbs.{verb}").__doc__
    commands = [re.split(r" {2,}", line)[0] for line in doc.splitlines() if line.startswith("likeli ")]
    return [command for command in commands if find_spec("anndata") or ".h5ad" not in command]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The files and the runs that the examples speak of."""
    folder = tmp_path_factory.mktemp("help")
    ring, digits = likeli.load_data("ring8").x[:1500].numpy(), likeli.load_data("digits")
    for name in ("table", "ring", "rows", "other"):
        np.savetxt(folder / f"{name}.csv", ring, delimiter=",", header="a,b", comments="")
    (folder / "shards").mkdir()
    for i in range(2):
        pd.DataFrame(ring[i::2][:100], columns=["a", "b"]).to_parquet(folder / "shards" / f"{i}.parquet")
    (folder / "holes.csv").write_text("a,b\n0.5,\n,1.5\n0.25,0.5\n")
    np.save(folder / "digits.npy", digits.x[:3].numpy())
    np.save(folder / "holes.npy", np.where(np.arange(64).reshape(8, 8) < 20, -1, digits.x[:2].numpy()))
    ages = np.random.default_rng(0).integers(18, 80, 300)
    people = pd.DataFrame({"age": ages, "job": np.where(ages % 2, "clerk", "cook")})
    likeli.fit(likeli.Independent(likeli.load_data(people).space), likeli.load_data(people), out=folder / "runs" / "table")
    table = likeli.load_data(folder / "table.csv")
    likeli.fit(likeli.GMM(table.space), table, out=folder / "runs" / "x")
    models = {
        "vae": likeli.VAE(digits.space),
        "labelled": likeli.VAE(digits.space, condition=digits.condition),
        "hvae": likeli.HVAE(digits.space, (4, 3, 2)),
        "vdm": likeli.VDM(digits.space, HIDDEN),
        "guided": likeli.VDM(digits.space, HIDDEN, condition=digits.condition),
        "rbm": likeli.RBM(digits.space, 24),
        "masked": likeli.DiscreteDiffusion(digits.space, hidden=(16,), steps=4),
    }
    (folder / "book.txt").write_text("ROMEO: To be, or not to be. " * 400)
    book = likeli.load_data(folder / "book.txt", context=128)
    text = likeli.build({"class": "autoregressive", "space": book.space, "hidden": [8]}, likeli.GenerativeModel)
    likeli.fit(text, book, steps=2, out=folder / "runs" / "book", valid_rows=8)
    for name, model in models.items():
        likeli.fit(model, digits, steps=2, out=folder / "runs" / name, valid_rows=8)
    if find_spec("anndata"):
        prepare_cells(folder)
    colour = likeli.load_data(np.random.default_rng(0).integers(0, 256, (200, 3, 4, 4), dtype=np.uint8))
    flat = likeli.DenoiserBackbone(network="mlp", hidden=(8, 8))
    for name, data in (("colour", colour), ("digits", digits)):
        likeli.fit(likeli.VDM(data.space, flat), data, steps=2, out=folder / "runs" / name, valid_rows=8)
    hole = 255 * (np.arange(64).reshape(8, 8) % 8 > 3)
    pictures = {"digit": digits.x[0].long().numpy() * 15, "mask": hole, "small": hole[::4, ::4], "grey": hole[:4, :4]}
    for name, x in pictures.items():
        Image.fromarray(x.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def prepare_cells(folder):
    """An AnnData of two batches, and a run on it."""
    import anndata

    counts, batch = np.random.default_rng(0).poisson(1, (60, 5)), {"batch": ["b1", "b2"] * 30}
    genes, cells = [f"g{i}" for i in range(5)], [f"c{i}" for i in range(60)]
    obs, var = pd.DataFrame(batch, cells), pd.DataFrame(index=genes)
    write_h5ad(folder / "cells.h5ad", anndata.AnnData(counts, obs, var, layers={"counts": counts}))
    data = likeli.load_data(folder / "cells.h5ad", labels="batch")
    likeli.fit(likeli.VAE(data.space, condition=data.condition), data, steps=2, out=folder / "runs" / "cells")


@pytest.fixture
def desk(prepared, place):
    """A copy of them to work on."""
    shutil.copytree(prepared, place, dirs_exist_ok=True)
    return place


VERBS = [pytest.param(v, marks=pytest.mark.slow) if v == "compare" else v for v in sorted(set(commands()) - {"fit", "demo"})]


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_runs(verb, desk):
    """All but the demo's, which `test_demo.py` runs with budgets of a moment."""
    assert examples(verb)
    for command in examples(verb):
        shell(command)


def test_the_examples_of_fit_run_one_after_the_other(desk):
    """Two steps in place of what is said or not said, and three where a run goes on."""
    shutil.rmtree("runs")
    for command in examples("fit"):
        short = re.sub(r"--(minutes|steps) \d+", "", command)
        steps = 3 if "--resume" in command else 2
        assert main([*short.split()[1:], "--quiet", "--steps", str(steps), "--train.valid_rows", "8"]) == 0, command
    assert likeli.checkpoint.inspect("runs/x")["info"]["metrics"]["step"] == 3

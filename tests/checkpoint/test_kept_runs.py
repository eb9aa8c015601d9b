"""Runs that earlier versions have saved are loaded for ever, and answer what they did."""

import json
import shutil

import pytest
import torch
from kept_runs import KEPT, RUNS, answers

import likeli
from families import FAMILIES
from likeli import checkpoint

FOLDERS = sorted(p for p in KEPT.glob("*/*") if p.is_dir())


def numbers(folder):
    kept = json.loads((folder / "numbers.json").read_text())
    return kept, torch.tensor(kept["x"], dtype=torch.float64)


def near(found, kept, tolerance):
    """Within so much of each number and of one unit; NaN where it was."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (found, kept))
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_every_family_of_this_version_is_kept():
    kept = {p.name for p in FOLDERS if p.parent.name == likeli.__version__}
    assert kept == {*FAMILIES, "unfinished"} == {*RUNS, "unfinished"}


@pytest.mark.parametrize("folder", [p for p in FOLDERS if p.name != "unfinished"], ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_kept_run_answers_what_it_did(folder):
    """log p to 1e-6; a loss sums draws in another order on other processors, and a sample is the end of a long way."""
    kept, x = numbers(folder)
    found = checkpoint.read(folder)
    assert found.warnings == ()
    given = answers(found.model, found.model.space.check(x, missing=True), kept["y"])
    assert set(given) == kept.keys() - {"x", "y"}
    assert given.get("knows") == kept.get("knows") and given.get("measure") == kept.get("measure")
    if isinstance(kept["log_p"], list):
        assert near(given["log_p"], kept["log_p"], 1e-6), (given["log_p"], kept["log_p"])
    assert near(given["loss"], kept["loss"], 1e-4)
    if isinstance(kept["sample"], list):
        whole = found.model.space.measure == "mass"
        a, b = torch.tensor(given["sample"]), torch.tensor(kept["sample"])
        assert (a == b).double().mean() >= 0.9 if whole else near(given["sample"], kept["sample"], 1e-3)
    assert checkpoint.read_history(folder)
    assert checkpoint.inspect(folder)["step"] == found.step


@pytest.mark.parametrize("folder", [p for p in FOLDERS if p.name == "unfinished"], ids=lambda p: p.parent.name)
def test_a_kept_run_goes_on_to_the_end_that_it_had(folder, tmp_path):
    from kept_runs import rows

    shutil.copytree(folder, tmp_path / "run")
    kept, x = numbers(folder)
    before = checkpoint.read(tmp_path / "run")
    assert 0 < before.step < 6
    space, make = RUNS["vae"]
    with likeli.seeded(0, "weights"):
        model = make(space)
    every = rows(space)
    likeli.fit(model, every, torch.arange(len(every)) % 3, steps=6, batch=16, checkpoint_every=0, progress=False,
               out=tmp_path / "run", resume=True)  # fmt: skip
    assert near(answers(model, space.check(x), kept["y"])["log_p"], kept["log_p"], 1e-5)

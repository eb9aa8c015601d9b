"""`likeli sampler RUN`: measured, printed, stored with the run, and then what `likeli sample --steps N` takes."""

import json

import numpy as np
import pytest
import torch

import likeli
from likeli import checkpoint
from likeli.cli import main
from likeli.diffusion.flow_error import recommended


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    words = ["--steps", "6", "--model.hidden", "8", "--train.batch", "16", "--train.valid_rows", "8", "--quiet"]
    assert main(["fit", "ring8", "--model", "flow_matching", *words, "--out", str(folder)]) == 0
    return folder


FEW = ["--evaluations", "4,8", "--samplers", "adams,ddim", "--grids", "time,optimal", "--starts", "16"]


def test_what_it_stores_is_what_sample_takes(run, tmp_path, capsys):
    before, kept = checkpoint.read(run), len(list((run / "checkpoints").iterdir()))
    assert main(["sampler", str(run), *FEW]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("its own", "optimal", "8 evaluations", "stored: likeli sample"))
    after = checkpoint.read(run)
    assert before.state == after.state
    assert before.info == {k: v for k, v in after.info.items() if k != "samplers"}
    for one, two in ((before.model.state_dict(), after.model.state_dict()), (before.state_tensors, after.state_tensors)):
        assert all(torch.equal(one[k], two[k]) for k in one | two)
    assert len(list((run / "checkpoints").iterdir())) == kept
    out = tmp_path / "s.npy"
    assert main(["sample", str(run), "--steps", "8", "-n", "5", "--out", str(out)]) == 0
    choice = recommended(after.info["samplers"], 8)
    assert f"by {choice.name} on {choice.grid} in 8 steps, as likeli sampler recommends" in capsys.readouterr().out
    assert np.array_equal(np.load(out), after.model.sample(5, **choice.options()).numpy())
    assert main(["sample", str(run), "--steps", "8", "-n", "5", "--grid", "time", "--out", str(out), "--overwrite"]) == 0
    assert "recommends" not in capsys.readouterr().out
    assert np.array_equal(np.load(out), after.model.sample(5, steps=8, grid="time").numpy())


def test_a_run_that_trains_on_forgets_it(run):
    assert main(["sampler", str(run), *FEW]) == 0
    assert main(["fit", "ring8", "--resume", "--steps", "9", "--quiet", "--out", str(run)]) == 0
    assert "samplers" not in checkpoint.read(run).info


def test_a_dry_run_leaves_the_run_as_it_is(run, tmp_path, capsys):
    names = sorted(p.name for p in run.rglob("*"))
    assert main(["sampler", str(run), *FEW, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["stored"] is False
    assert set(found["best"]) == {"4", "8"}
    assert sorted(p.name for p in run.rglob("*")) == names
    likeli.save_pretrained(likeli.load(run), tmp_path / "flat")
    assert main(["sampler", str(tmp_path / "flat"), *FEW]) == 2
    assert "or --dry-run" in capsys.readouterr().err
    assert main(["sampler", str(tmp_path / "flat"), *FEW, "--dry-run"]) == 0


@pytest.mark.parametrize(
    "words, said",
    [
        ("--samplers ancestral", "samplers: expected deterministic ones"),
        ("--samplers adamz", "did you mean adams"),
        ("--grids even", "grids: expected some of"),
        ("--evaluations 1", "at least 2"),
        ("--label 3", "label: expected nothing"),
        ("--seed -1", "seed: expected a whole number from 0"),
    ],
)
def test_mistakes(run, capsys, words, said):
    assert main(["sampler", str(run), *words.split()]) == 2
    assert said in capsys.readouterr().err

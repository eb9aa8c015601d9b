"""Weights, gradients and moments that are split over processes: the losses of one, and checkpoints that anyone can load."""

import json
from pathlib import Path

import pytest
import shared_runs
import split_runs
import torch
from test_processes import ON, losses_of, started

import likeli
from likeli.cli import main

HERE = Path(__file__).parent


def found_by(n, folder, *what):
    ranks = started(n, [str(HERE / "split_runs.py"), str(folder), *what])
    try:
        assert [rank.wait(timeout=500) for rank in ranks] == [0] * n
    finally:
        for rank in ranks:
            rank.kill()
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    return found_by(2, folder) | {"folder": folder}


def close(found, alone):
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), torch.tensor(alone, dtype=torch.float64),
                               rtol=1e-6, atol=0)  # fmt: skip


def test_split_weights_have_the_losses_of_whole_ones(split):
    close(split["losses"], shared_runs.losses("vae", 60))
    close(split["skipping"], shared_runs.losses("vae", 10, skip=1.01, weight_decay=0.1))


def test_families_whose_rows_share_a_number_have_the_losses_of_one_process(split):
    for name, (losses, weights) in split["shared"].items():
        alone, held = split_runs.family_losses(name)
        close([*losses, weights], [*alone, held])


def test_a_process_holds_its_part_alone(split):
    mine, whole = split["held"]
    assert whole / 2 <= mine < 0.52 * whole  # of an axis that does not divide the first process has one more


def test_checkpoints_are_whole_and_a_resume_is_exact(split):
    found = split["interrupted"]
    assert found["code"] == 143
    losses, weights = found["whole"]
    assert found["resumed"] == [losses[-18:], weights]  # to the bit, and every process was left with whole weights
    loaded = likeli.load(split["folder"] / "run")
    assert [v.sum().item() for v in loaded.state_dict().values()] == weights


def test_what_cannot_be_split_is_one_line_before_any_work(split, capsys, tmp_path):
    assert len(split["refused"]) == 3
    assert all(line.startswith("train.shard: expected a family trained by gradient descent") for line in split["refused"])
    words = ["fit", "ring8", "--model", "gmm", "--train.shard", "true", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "train.shard: expected a family trained by gradient descent" in capsys.readouterr().err


@pytest.mark.slow
def test_a_split_run_goes_on_whole_and_split_anew(split, tmp_path):
    """Stopped at step 12 of two that split it, then at 20 of one that has it whole, and ended by three that split it."""
    folder = str(split["folder"] / "run-copy")
    whole = torch.tensor([loss for loss, _ in split["interrupted"]["whole"][0]])
    for n, stop, shard in ((1, 20, False), (3, 1000, True)):
        script = tmp_path / f"on{n}.py"
        script.write_text(ON.replace("resume=True", f"resume=True, shard={shard}"), encoding="utf-8")
        assert [rank.wait(timeout=250) for rank in started(n, [str(script), str(stop), "ring8", folder])] == [0] * n
    found = losses_of(folder)
    assert list(found) == list(range(1, 31))
    torch.testing.assert_close(torch.tensor([loss for loss, _ in found.values()]), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_family_has_the_losses_and_weights_of_one_process_split_or_whole(tmp_path):
    for name, ways in found_by(2, tmp_path, "families").items():
        alone, weights = split_runs.family_losses(name)
        for losses, held in ways:
            close([*losses, held], [*alone, weights])

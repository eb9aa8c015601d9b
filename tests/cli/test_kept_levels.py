"""`likeli sample --keep`: the library's samples with the codes of a test row at some levels."""

import numpy as np
import pytest

import likeli
from likeli.cli import main


@pytest.fixture(scope="module", params=["hvae", "markov_hvae"])
def fitted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels") / request.param
    tiny = ["--model.latent_dims", "2,3", "--steps", "4", "--train.batch", "32", "--quiet"]
    assert main(["fit", "digits", "--model", request.param, *tiny, "--out", str(folder)]) == 0
    return folder


def test_the_kept_levels_are_a_test_rows(fitted, tmp_path):
    out = tmp_path / "like.npy"
    assert main(["sample", str(fitted), "-n", "5", "--keep", "2", "--row", "7", "--seed", "3", "--out", str(out)]) == 0
    model, (x, _) = likeli.load(fitted), likeli.load_data("digits").split("test")
    expected = model.sample(5, seed=3, fixed={2: model.codes(x[7:8])[2].detach()})
    assert np.array_equal(np.load(out), expected.numpy())


@pytest.mark.parametrize(
    "words, message",
    [
        (["--keep", "3"], "keep: expected levels from 1 to 2, got 3"),
        (["--keep", "0"], "keep: expected levels from 1 to 2, got 0"),
        (["--keep", "top"], "keep: expected an integer, got top"),
        (["--sample.fixed", "3"], "fixed: expected codes by level, got int"),
        (["--keep", "1", "--row", "100000"], "row: expected a test row from 0 to"),
    ],
)
def test_bad_levels_and_rows_are_one_line(fitted, tmp_path, capsys, words, message):
    assert main(["sample", str(fitted), *words, "--out", str(tmp_path / "a.npy")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "a.npy").exists()


def test_a_model_without_levels_has_none_to_keep(tmp_path, capsys):
    assert main(["fit", "digits", "--model", "independent", "--quiet", "--out", str(tmp_path / "x")]) == 0
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "x"), "--keep", "1", "--out", str(tmp_path / "a.npy")]) == 2
    assert "keep: expected a run of a model with latent levels" in capsys.readouterr().err

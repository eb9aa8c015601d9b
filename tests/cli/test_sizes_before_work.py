"""What could not be done in a lifetime is refused before it is begun."""

import numpy as np
import pytest

import likeli
from likeli.cli import main, objects
from likeli.cli.catalogue import Catalogue
from likeli.cli.plan import Plan


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    np.savetxt(folder / "t.csv", np.random.default_rng(0).normal(size=(40, 2)), delimiter=",", header="a,b", comments="")
    assert main(["fit", f"{folder}/t.csv", "--model", "vae", "--steps", "1", "--quiet", "--out", f"{folder}/run"]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit t.csv --model flow --model.transforms 1000000", "at most 2000 tensors"),
        ("fit t.csv --model hvae --model.blocks 100000", "at most 2000 tensors"),
        ("fit t.csv --model vae --model.hidden 4611686018427387904", "at most 2**31"),
        ("fit t.csv --model gmm --model.components 1000000000", "of memory"),
        ("evaluate run --likelihood.samples 1000000000", "samples: expected at most 1000000"),
        ("anomaly run t.csv --likelihood.samples 4611686018427387904", "samples: expected at most 1000000"),
        ("sample run -n 4611686018427387904", "of disk"),
        ("fit gmm_draw:dims=20000,n=10 --model gmm", "gmm_draw: expected at most 16,777,216 parameters"),
        ("fit markov:vocab=100000,n=10 --model autoregressive", "markov: expected at most 16,777,216 parameters"),
    ],
)
def test_one_line_and_no_work(desk, capsys, monkeypatch, words, said):
    monkeypatch.chdir(desk)
    monkeypatch.setattr(objects, "MOST_TENSORS", 2000)  # a tenth of what is allowed, and of the time that it takes to count
    out = ["--out", "new"] if words.startswith("fit") else ["--out", "new.csv"] if "evaluate" not in words else []
    assert main([*words.split(), *out]) == (1 if said.startswith("of ") else 2)
    told = capsys.readouterr().err.strip()
    assert said in told
    assert len(told.splitlines()) == 1
    assert not [p for p in desk.rglob("new*") if p.is_file()]
    assert not [p for p in desk.glob("new/*") if p.name != ".lock"]


class Wide:
    """What a plan asks of data: 40 rows of 20,000 reals."""

    name, condition, space = "wide", None, likeli.Real((20_000,))

    def rows(self, part):
        return range(40)


@pytest.mark.parametrize("covariance,needed", [("full", "19.2 GB"), ("tied", "9.6 GB"), (None, ""), ("diag", "")])
def test_a_mixture_of_20000_columns_says_what_its_covariances_need(monkeypatch, covariance, needed):
    """2 · 20000² numbers of two full covariances at 24 bytes; by default these are variances alone."""
    monkeypatch.setattr(objects, "available", lambda: 2_000_000_000)
    options = {"components": 2} | ({} if covariance is None else {"covariance": covariance})
    plan = Plan("wide", model={"class": "gmm", **options})
    if needed:
        with pytest.raises(likeli.LikeliError, match=f"training gmm with .* needs {needed} of memory, and 2 GB can be had"):
            objects.make_model(plan, Wide(), Catalogue([]))
    else:
        assert objects.make_model(plan, Wide(), Catalogue([])).covariance == "diag"

"""`likeli levels` and `likeli evaluate --method both` on a run of a few steps."""

import json

import pytest

from likeli.cli.app import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("levels") / "vdm")
    fit = ["fit", "ring8", "--model", "vdm", "--model.hidden", "16,16", "--steps", "20", "--quiet", "--out", folder]
    assert main(fit) == 0
    return folder


def test_levels_sum_to_the_bound_of_evaluate(run, capsys):
    """JSON: the ledger adds up, and agrees with `evaluate` on the same rows within 4.5 of both errors."""
    assert main(["levels", run, "--levels", "5", "--draws", "8", "--rows", "40", "--schedules", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    total = sum(v["nats"] for v in found["levels"])
    assert found["bound"] == pytest.approx(found["reconstruction"] - found["prior"] - total, abs=1e-5)
    assert len(found["spread"]) == len(found["miss"]) == len(found["levels"]) == 5
    assert found["spread_from"] == "tweedie"
    assert {p["schedule"] for p in found["schedules"]} == {"learned", "log_linear", "cosine", "beta_linear", "importance"}
    assert main(["evaluate", run, "--rows", "40", "--likelihood.samples", "64", "--json"]) == 0
    bound = json.loads(capsys.readouterr().out)
    assert bound["examples"] == 40
    variance = next(p["variance"] for p in found["schedules"] if p["schedule"] == "learned")
    noise = 4.5 * (variance / (40 * 8 * 5) + variance / (40 * 64)) ** 0.5
    assert abs(bound["nats"] - found["bound"]) < noise


def test_both_methods_with_every_error_on_a_line(run, capsys):
    assert main(["evaluate", run, "--method", "both", "--rows", "8", "--likelihood.rtol", "1e-3"]) == 0
    said = capsys.readouterr().out
    for word in ("bound", "ode", "ode tolerance", "probe noise", "terminal mismatch", "dequantisation", "ode − bound:"):
        assert word in said
    assert main(["evaluate", run, "--method", "ode", "--rows", "8", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["knows"] == "estimate"


def test_a_picture_and_its_name(run, tmp_path, capsys):
    out = tmp_path / "levels.png"
    assert main(["levels", run, "--levels", "4", "--rows", "8", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "log p(x) ≥" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, said",
    [
        (["levels", "RUN", "--levels", "0"], "levels: expected at least 1"),
        (["levels", "RUN", "--draws", "0"], "draws: expected at least 1"),
        (["levels", "RUN", "--rows", "0"], "rows: expected at least 1"),
        (["levels", "RUN", "--out", "levels.gif"], "ends in .png"),
        (["levels", "RUN", "--out", "/nowhere/levels.png"], "existing folder"),
        (["levels", "nowhere"], "nowhere"),
        (["evaluate", "RUN", "--rows", "0"], "rows: expected at least 1"),
        (["evaluate", "RUN", "--method", "flow"], "method"),
        (["evaluate", "RUN", "--method", "both", "--likelihood.draw", "2"], "no such option; did you mean draws"),
        (["evaluate", "RUN", "--likelihood.samples", "0"], "samples: expected at least 1"),
        (["sample", "RUN", "-n", "2", "--out", "x.npy", "--sample.steps", "0"], "steps: expected a whole number of at least 1"),
        (["sample", "RUN", "-n", "2", "--out", "x.npy", "--sample.sampler", "dimm"], "did you mean ddim"),
    ],
)
def test_bad_requests_are_one_line(run, tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    assert main([run if a == "RUN" else a for a in argv]) == 2
    message = capsys.readouterr().err.strip()
    assert said in message and "\n" not in message and not list(tmp_path.iterdir())


def test_a_family_without_noise_levels_says_so(tmp_path, capsys):
    folder = str(tmp_path / "ppca")
    assert main(["fit", "gaussian", "--model", "ppca", "--quiet", "--out", folder]) == 0
    for argv in (["levels", folder], ["evaluate", folder, "--method", "both"]):
        capsys.readouterr()
        assert main(argv) == 2
        assert "ppca has no noise levels" in capsys.readouterr().err

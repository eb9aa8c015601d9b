"""The commands, from fit to history, on data small enough to be quick."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import likeli
from likeli import config
from likeli.cli import main
from likeli.cli.objects import keep_freed_memory
from likeli.evaluation.likelihood import ROW
from likeli.random import derive
from likeli.spaces.labels import like_training

TINY = ["--model.hidden", "8", "--steps", "6", "--train.batch", "32", "--train.valid_rows", "8", "--quiet"]


def run(*words, code=0):
    assert main([str(w) for w in words]) == code


def output(capsys, *words, code=0):
    """The JSON object that a command prints on standard output, alone."""
    capsys.readouterr()
    run(*words, "--json", code=code)
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run("fit", "digits", "--model", "vae", "--model.latent_dim", 2, *TINY, "--out", folder / "vae")
    run("fit", "digits", "--model", "vae", "--model.latent_dim", 2, *TINY, "--labels", "--out", folder / "cvae")
    run("fit", "gaussian", "--model", "ppca", "--quiet", "--out", folder / "ppca")
    run("fit", "digits", "--model", "vdm", "--model.network", "mlp", *TINY, "--out", folder / "vdm")
    run("fit", "digits", "--model", "vdm", "--model.network", "mlp", *TINY, "--labels", "--out", folder / "cvdm")
    return folder


def test_fit_says_what_it_did(tmp_path, capsys):
    row = output(capsys, "fit", "digits", "--model", "vae", *TINY, "--out", tmp_path / "x")
    assert row["steps"] == 6
    assert row["stopped_because"] == "steps"
    assert row["best"]["valid"] > 0
    assert row["warnings"] == []


def test_info_describes_a_run(runs, capsys):
    info = output(capsys, "info", runs / "vae")
    assert info["class"] == "vae"
    assert info["knows"] == "lower bound"
    assert info["info"]["data"]["source"] == "digits"
    run("info", runs / "vae")
    assert "vae" in capsys.readouterr().out


def test_history_is_exact(runs, capsys):
    rows = output(capsys, "history", runs / "vae")["rows"]
    truth = likeli.checkpoint.read_history(runs / "vae")
    assert [float.fromhex(r["loss"]) for r in rows] == [r["loss"] for r in truth]
    run("history", runs / "vae")
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(truth)


def test_evaluate_has_the_agreed_keys_and_is_the_librarys_number(runs, capsys):
    row = output(capsys, "evaluate", runs / "vae", "--likelihood.samples", 3, "--seed", 5)
    assert tuple(row) == ROW
    data = likeli.load_data("digits")
    found = likeli.evaluate(likeli.load(runs / "vae"), data.split("test")[0], seed=5, samples=3)
    assert row["nats"] == found.nats
    assert row["stderr"] == found.stderr
    assert row["examples"] == len(data.test)
    assert math.isclose(row["bits_per_dim"], -row["nats"] / (64 * math.log(2)), rel_tol=1e-12)


def test_evaluate_on_other_data_and_for_people(runs, capsys):
    train = output(capsys, "evaluate", runs / "ppca", "--split", "train")
    test = output(capsys, "evaluate", runs / "ppca")
    assert train["examples"] > test["examples"]
    run("evaluate", runs / "ppca")
    assert "exact" in capsys.readouterr().out
    run("evaluate", runs / "cvae")
    assert "note: lower bound" in capsys.readouterr().out


def test_samples_begin_alike_whatever_the_number(runs, tmp_path):
    for n in (5, 70):
        run("sample", runs / "vae", "-n", n, "--seed", 3, "--out", tmp_path / f"{n}.npy")
    few, many = np.load(tmp_path / "5.npy"), np.load(tmp_path / "70.npy")
    assert few.shape == (5, 8, 8)
    assert (few == many[:5]).all()
    model = likeli.load(runs / "vae")
    assert (torch.from_numpy(few) == model.sample(5, seed=3)).all()


def test_samples_as_a_picture_and_as_a_table(runs, tmp_path):
    run("sample", runs / "vae", "-n", 9, "--out", tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").size == (3 * 50 + 2, 3 * 50 + 2)
    run("sample", runs / "ppca", "-n", 4, "--out", tmp_path / "s.csv")
    rows = list(csv.reader((tmp_path / "s.csv").open()))
    x = likeli.load(runs / "ppca").sample(4)
    assert np.allclose(np.array(rows[1:], dtype=float), x.numpy(), rtol=1e-12)


def test_labels(runs, tmp_path, capsys):
    run("sample", runs / "cvae", "-n", 2, "--label", 3, "--out", tmp_path / "a.npy")
    x = likeli.load(runs / "cvae").sample(2, torch.tensor([3]))
    assert (np.load(tmp_path / "a.npy") == x.numpy()).all()
    bad = {"10": "from 0 to 9", "-1": "from 0 to 9", "three": "numbers", "1e9": "from 0 to 9", "1.5": "from 0 to 9"}
    for label, words in bad.items():
        run("sample", runs / "cvae", "--label", label, "--out", tmp_path / "b.npy", code=2)
        assert words in capsys.readouterr().err
    run("sample", runs / "vae", "--label", 3, "--out", tmp_path / "b.npy", code=2)
    run("fit", "gaussian", "--model", "ppca", "--labels", "--out", tmp_path / "x", code=2)
    assert not (tmp_path / "b.npy").exists()


def test_labels_that_are_not_given(runs, tmp_path, capsys):
    """Samples have them as often as the training rows, and a file of digits has none unless they are told."""
    model = likeli.load(runs / "cvae")
    drawn = output(capsys, "sample", runs / "cvae", "-n", 6, "--seed", 4, "--out", tmp_path / "s.csv")
    y = like_training(model.condition, 6, seed=4)
    assert drawn["labels"] == y.tolist()
    header, *rows = list(csv.reader((tmp_path / "s.csv").open()))
    assert header[-1] == "label"
    assert [int(row[-1]) for row in rows] == y.tolist()
    assert [float(row[0]) for row in rows] == model.sample(6, y, seed=4).flatten(1)[:, 0].tolist()
    np.save(tmp_path / "x.npy", likeli.load_data("digits").x[:3].numpy())
    for verb in ("score", "anomaly"):
        run(verb, runs / "cvae", tmp_path / "x.npy", code=2)
        assert "--label Y" in capsys.readouterr().err
    scored = output(capsys, "score", runs / "cvae", tmp_path / "x.npy", "--label", 3)["nats"]
    truth = model.log_likelihood(np.load(tmp_path / "x.npy"), 3, seed=derive(0, "evaluate")).value.tolist()
    assert scored == pytest.approx(truth)
    run("score", runs / "vae", tmp_path / "x.npy", "--label", 3, code=2)
    assert "not conditional" in capsys.readouterr().err


def test_scores_are_the_models_row_by_row(runs, tmp_path, capsys):
    x = likeli.load_data("gaussian").x[:7]
    np.save(tmp_path / "rows.npy", x.numpy())
    row = output(capsys, "score", runs / "ppca", tmp_path / "rows.npy", "--out", tmp_path / "s.csv")
    assert row == {"knows": "exact", "measure": "density", "rows": 7, "out": str(tmp_path / "s.csv")}
    header, *rows = list(csv.reader((tmp_path / "s.csv").open()))
    assert header == ["row", "nats", "stderr", "knows", "measure"]
    truth = likeli.load(runs / "ppca").log_likelihood(x).value.tolist()
    assert [float(r[1]) for r in rows] == truth
    assert {tuple(r[2:]) for r in rows} == {("", "exact", "density")}
    run("score", runs / "ppca", tmp_path / "rows.npy")
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == [r[1] for r in rows]


def test_nothing_is_written_over(runs, tmp_path, capsys):
    (tmp_path / "s.npy").write_text("mine")
    run("sample", runs / "vae", "--out", tmp_path / "s.npy", code=2)
    assert (tmp_path / "s.npy").read_text() == "mine"
    run("fit", "digits", "--model", "vae", *TINY, "--out", runs / "vae", code=2)
    assert "--overwrite" in capsys.readouterr().err
    run("sample", runs / "vae", "-n", 1, "--out", tmp_path / "s.npy", "--overwrite")
    assert np.load(tmp_path / "s.npy").shape == (1, 8, 8)


def test_a_config_round_trip(tmp_path, capsys):
    words = ["fit", "digits", "--model", "vae", "--model.latent_dim", "2", *TINY, "--seed", "4"]
    run(*words, "--print-config")
    text = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(text)
    run("fit", "--config", tmp_path / "c.yaml", "--print-config")
    assert capsys.readouterr().out == text
    run(*words, "--out", tmp_path / "a")
    run("fit", "--config", tmp_path / "c.yaml", "--out", tmp_path / "b", "--quiet")
    a, b = (output(capsys, "history", tmp_path / name)["rows"] for name in "ab")
    assert [r["loss"] for r in a] == [r["loss"] for r in b]


def test_a_printed_config_leaves_to_the_data_what_depends_on_them(tmp_path, capsys):
    """On text the batch and the rate are others, so that a file with either written out would change the run."""
    words = ["fit", "book.txt", "--model", "autoregressive", "--print-config"]
    run(*words)
    assert not {"batch", "lr"} & yaml.safe_load(capsys.readouterr().out)["train"].keys()
    run(*words, "--train.batch", "32")
    assert yaml.safe_load(capsys.readouterr().out)["train"]["batch"] == 32
    run("fit", "--model", "autoregressive", "--help")
    assert "on text, if not given: --train.batch 16 --train.lr 0.005" in capsys.readouterr().out


def test_resume_goes_on_by_the_runs_own_record(tmp_path, capsys):
    words = ["digits", "--model", "vae", "--model.latent_dim", "2", *TINY]
    first = output(capsys, "fit", *words, "--out", tmp_path / "x", "--resume")  # nothing there yet: a start
    again = output(capsys, "fit", "--resume", "--out", tmp_path / "x")
    assert again["notes"]
    assert again["steps"] == first["steps"]
    assert "steps of at least" in output(capsys, "fit", "--resume", "--out", tmp_path / "x", "--steps", 1, code=2)["error"]
    assert output(capsys, "fit", "--resume", "--out", tmp_path / "x", "--steps", 9)["steps"] == 9
    assert "latent_dim" in output(capsys, "fit", "--resume", "--out", tmp_path / "x", "--model", "vae", code=2)["error"]
    run("fit", "--resume", "--out", tmp_path / "nothing", code=2)


def test_compare_ranks_and_has_a_row_for_every_family(capsys):
    words = ["compare", "gaussian", "--models", "ae,vae,ppca", "--steps", "3", "--quiet", "--jobs", "2"]
    found = output(capsys, *words, "--model.vae.latent_dim", -1)
    ranked, nothing, failed = sorted(found["rows"], key=lambda r: ["ppca", "ae", "vae"].index(r["model"]))
    assert found["rows"][0] == ranked
    assert tuple(ranked) == tuple(nothing) == ROW
    assert ranked["knows"] == "exact"
    assert ranked["nats"] < 0 < ranked["stderr"]
    assert nothing["knows"] == "nothing"
    assert nothing["nats"] is None
    assert nothing["notes"]
    assert set(failed) == {*ROW, "error"}
    assert "latent_dim" in failed["error"]


@pytest.mark.parametrize(
    "words, message",
    [
        ("compare digits --models vae,gnn", "unknown family 'gnn'"),
        ("compare digits --models vae --model.latent_dim 3", "model.FAMILY.OPTION"),
        ("compare digits --models vae --model.vae.latnt_dim 3", "did you mean latent_dim"),
        ("compare digits --models vae --train.lrr 3", "did you mean lr"),
        ("compare nowhere --models vae", "nowhere"),
        ("compare digits --models vae --steps 3 --minutes 1", "one of the two"),
        ("compare digits --models vae --jobs 0", "jobs"),
    ],
)
def test_compare_refuses_before_it_starts(words, message, capsys):
    run(*words.split(), code=2)
    assert message in capsys.readouterr().err


def test_a_plugin_is_a_family_like_ours(tmp_path, capsys, monkeypatch):
    (tmp_path / "laplace.py").write_text(PLUGIN)
    plugin = ["--plugin", str(tmp_path / "laplace.py")]
    assert "laplace_columns" in json.dumps(output(capsys, "list", *plugin))
    run("fit", "gaussian", "--model", "laplace_columns", "--steps", 5, "--quiet", "--out", tmp_path / "x", *plugin)
    assert output(capsys, "evaluate", tmp_path / "x", *plugin)["knows"] == "exact"
    run("fit", "gaussian", "--model", "laplace_columns", "--model.widht", 5, "--out", tmp_path / "y", *plugin, code=2)
    assert "did you mean width" in capsys.readouterr().err
    run("list", "--plugin", tmp_path / "nowhere.py", code=2)
    capsys.readouterr()
    with monkeypatch.context() as another_process:
        another_process.delitem(config._CLASSES, "laplace_columns")
        run("evaluate", tmp_path / "x", code=2)
    assert "fitted with a plugin, laplace.py: name it with --plugin FILE.py" in capsys.readouterr().err
    (tmp_path / "broken.py").write_text("1 / 0")
    run("info", tmp_path / "x", "--plugin", tmp_path / "broken.py", code=2)
    assert "ZeroDivisionError" in capsys.readouterr().err


PLUGIN = '''
import torch
from torch import nn
from likeli.models import DensityModel
from likeli.spaces import Space

class LaplaceColumns(DensityModel):
    """Independent Laplace columns.

    Arguments:
        space: what one example is.
        width: first scale.
    """

    strategy = "sgd"

    def __init__(self, space: Space, width: float = 1.0) -> None:
        super().__init__(space)
        self.width = width
        self.loc = nn.Parameter(torch.zeros(space.shape))
        self.log_scale = nn.Parameter(torch.full(space.shape, width).log())

    def log_density(self, u, y=None):
        return torch.distributions.Laplace(self.loc, self.log_scale.exp()).log_prob(u).flatten(1).sum(1)

    def draw_density(self, noise, y=None):
        p = noise.uniform(*self.space.shape) - 0.5
        return self.loc - self.log_scale.exp() * p.sign() * torch.log1p(-2 * p.abs())
'''


SAMPLER = '''
from likeli.diffusion import Sampler

class HalfStep(Sampler):
    """Euler's step in sigma, twice as lazy as it should be.

    Arguments:
        share: of the way.
    """

    evaluations = 1

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def step(self, denoise, z, t, s, noise, memory):
        found = denoise(z, t)
        return z + self.share * (s.alpha * found.x + s.sigma * found.eps - z), memory
'''


def test_a_plugin_that_adds_no_family_says_what_it_adds(runs, tmp_path, capsys):
    (tmp_path / "half.py").write_text(SAMPLER)
    (tmp_path / "nothing.py").write_text("x = 1")
    capsys.readouterr()
    plugins = ["--plugin", tmp_path / "half.py", "--plugin", tmp_path / "nothing.py"]
    run("sample", runs / "vdm", "-n", 2, "--steps", 3, "--sampler", "half_step", "--out", tmp_path / "s.npy", *plugins)
    err = capsys.readouterr().err
    assert f"{tmp_path / 'half.py'} adds half_step" in err
    assert f"{tmp_path / 'nothing.py'} adds nothing by name" in err
    assert "family" not in err


WALKS = [[], ["--grid", "3,8"], ["--between", "0,7"], pytest.param(["--between", "0,7,1,2"], marks=pytest.mark.slow)]


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("name", ["vdm", pytest.param("cvdm", marks=pytest.mark.slow)])
def test_latent_walks_in_the_code_of_a_diffusion(walk, name, runs, tmp_path, capsys):
    found = output(capsys, "latent", runs / name, *walk, "--steps", 3, "--out", tmp_path / "a.png")
    assert found["codes"] == [1 if walk[1:] == ["0,7"] else 3, 3, 8, 8]
    assert ("differ most" in found["walk"]) == (not walk)
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 8


VERB = '''
"""count to a number

likeli count_up 3
"""

from likeli.cli.output import emit


def add_arguments(parser):
    """Declare the options."""
    parser.add_argument("number", type=int)


def run(args):
    """Count."""
    emit(args, {"count": list(range(args.number))}, " ".join(map(str, range(args.number))))
'''


def test_a_verb_is_one_file(tmp_path, monkeypatch, capsys):
    from likeli.cli import verbs

    monkeypatch.setattr(verbs, "__path__", [*verbs.__path__, str(tmp_path)])
    (tmp_path / "count_up.py").write_text(VERB)
    assert output(capsys, "count_up", 3) == {"count": [0, 1, 2]}
    run("count_up", "three", code=2)
    assert "number: expected an integer, got three" in capsys.readouterr().err
    run("count-up", 3, code=2)
    assert "did you mean count_up" in capsys.readouterr().err
    run("--help")
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert listed[:3] == ["fit", "evaluate", "sample"]
    assert "count_up" in listed
    assert set(listed) >= {p.stem for p in Path(verbs.__path__[0]).glob("[a-z]*.py")}


SCHEDULE = '''
from likeli.diffusion.schedule import VariancePreserving

class Bent(VariancePreserving):
    """γ(t) = 11 tᵖ − 6.

    Arguments:
        power: p.
    """

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def gamma(self, t):
        return 11 * t**self.power - 6
'''


def test_a_schedule_is_one_file(tmp_path, capsys):
    (tmp_path / "bent.py").write_text(SCHEDULE)
    plugin = ["--plugin", tmp_path / "bent.py"]
    tiny = ["--model.hidden", 8, "--steps", 2, "--train.batch", 16, "--train.valid_rows", 8, "--quiet"]
    bent = ["--model.noise", "bent", "--model.noise.power", 1.5]
    run("fit", "digits", "--model", "ddpm", *bent, *tiny, "--out", tmp_path / "x", *plugin)
    capsys.readouterr()
    assert output(capsys, "info", tmp_path / "x", *plugin)["arguments"]["noise"] == {"class": "bent", "power": 1.5}
    assert output(capsys, "evaluate", tmp_path / "x", "--rows", 8, *plugin)["knows"] == "lower bound"


IDENTITY = '''
from likeli.theory.check import identity

@identity("I0", title="2 + 2 = 2 · 2", tolerance=0.0)
def two_roads_to_four():
    return abs((2 + 2) - 2 * 2)
'''


def test_an_identity_is_one_file(tmp_path, monkeypatch, capsys):
    from likeli import theory
    from likeli.theory import check

    (tmp_path / "my_chapter.py").write_text(IDENTITY)
    monkeypatch.setattr(check, "_CHECKS", dict(check._CHECKS))
    monkeypatch.setattr(theory, "__path__", [*theory.__path__, str(tmp_path)])
    exec(Path(theory.__file__).read_text(), vars(theory))  # as at import, with one folder more to stand in
    monkeypatch.delitem(sys.modules, "likeli.theory.my_chapter")
    run("verify", "--only", "two-roads-to-four")
    assert "two-roads-to-four" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "sample {run} -n 1000000000 --out {out}.npy",
        "fit digits --model vae --model.latent_dim 1000000000 --out {out}",
        "fit digits --model vae --model.hidden 100000000 --out {out}",
    ],
)
def test_what_does_not_fit_is_refused(words, runs, tmp_path, capsys):
    run(*words.format(run=runs / "vae", out=tmp_path / "x").split(), code=1)
    err = capsys.readouterr().err
    assert "needs" in err
    assert "B of memory" in err
    assert not list(tmp_path.iterdir())


def test_a_memory_limit_is_known_before_memory_is_taken(runs, tmp_path):
    n = 12_000_000  # 18 GB of numbers
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30));"
        "from likeli.cli import main;"
        f"sys.exit(main(['sample', {str(runs / 'vae')!r}, '-n', '{n}', '--out', '{tmp_path}/x.npy']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert f"{n} samples of 64 cells needs 18.4 GB of memory" in done.stderr


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m likeli list --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.endswith("0\n")
    assert done.stderr == ""


def test_an_empty_environment_is_enough(runs, tmp_path):
    words = [sys.executable, "-m", "likeli", "sample", str(runs / "ppca"), "-n", "9", "--out", str(tmp_path / "x.png")]
    done = subprocess.run(words, env={"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_error_is_one_line_and_debug_shows_where(capsys):
    run("info", "nowhere", code=2)
    plain = capsys.readouterr()
    assert plain.out == ""
    assert plain.err.startswith("likeli: ")
    assert plain.err.count("\n") == 1
    run("info", "nowhere", "--debug", code=2)
    assert "Traceback" in capsys.readouterr().err
    assert output(capsys, "info", "nowhere", code=2)["exit_code"] == 2


def test_a_formula_in_the_data_is_harmless_in_the_samples(tmp_path):
    (tmp_path / "a.csv").write_text("a,=b()\n" + "1.5,=cmd()\n2.5,@sum\n" * 20)
    run("fit", tmp_path / "a.csv", "--model", "independent", "--quiet", "--out", tmp_path / "x")
    run("sample", tmp_path / "x", "-n", 30, "--out", tmp_path / "s.csv")
    header, *rows = list(csv.reader((tmp_path / "s.csv").open()))
    assert header == ["a", "'=b()"]
    assert {row[1] for row in rows} == {"'=cmd()", "'@sum"}


def test_a_history_that_cannot_be_written_is_a_warning_and_exit_code_3(tmp_path, capsys, monkeypatch):
    def full(folder, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(likeli.checkpoint, "append_history", full)
    run("fit", "gaussian", "--model", "gmm", "--quiet", "--out", tmp_path / "x", code=3)
    assert "No space left" in capsys.readouterr().err
    run("sample", tmp_path / "x", "-n", 1, "--out", tmp_path / "s.npy")


def test_warnings_are_one_line(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.c_[np.ones(60), np.arange(60.0) / 7])
    run("fit", tmp_path / "a.npy", "--model", "independent", "--quiet", "--out", tmp_path / "x")
    err = capsys.readouterr().err
    assert "likeli: warning: " in err
    assert "column x0: constant" in err


def test_sources_are_listed(capsys):
    names = [row["name"] for row in output(capsys, "list", "--data")["sources"]]
    assert {"digits", "gaussian"} <= set(names)


def test_freed_memory_is_kept_where_the_library_can():
    assert keep_freed_memory() in (True, False)
    assert keep_freed_memory() is keep_freed_memory()


def test_reconstructions_are_those_of_the_library(runs, tmp_path, capsys):
    x, y = likeli.load_data("digits").split("test")
    found = output(capsys, "latent", runs / "cvae", "--reconstruct", 7, "--out", tmp_path / "r.png")
    again = likeli.latent.codes.reconstruct(likeli.load(runs / "cvae"), x[:7], y[:7])
    errors = (again.double() - x[:7].double()).square().mean((1, 2))
    assert found["squared_error"] == pytest.approx(errors.mean().item(), rel=1e-12)
    assert found["stderr"] == pytest.approx(errors.std().item() / math.sqrt(7), rel=1e-9)
    assert Image.open(tmp_path / "r.png").size == (10 * 50 + 2, 2 * 50 + 2)
    run("latent", runs / "vae", "--reconstruct", 181, "--out", tmp_path / "s.png", code=2)
    assert "from 1 to 180" in capsys.readouterr().err


def test_lists_fit_eighty_columns(capsys):
    for words in ([], ["--data"], ["vae"], ["vdm"]):
        run("list", *words)
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_info_prints_a_column_a_line(tmp_path, capsys):
    lines = ["age,city", *(f"{20 + i / 7},{('Rome', 'Oslo')[i % 2]}" for i in range(40))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    run("fit", tmp_path / "t.csv", "--model", "vae", *TINY, "--out", tmp_path / "x")
    capsys.readouterr()
    run("info", tmp_path / "x")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed if line.startswith("    ") and line.split()[0] in ("age", "city")] == [
        ["age", "real"], ["city", "categorical"],
    ]  # fmt: skip
    assert max(map(len, printed)) < 120
    assert any(line.split() == ["latent_dim", "16"] for line in printed)


def test_an_evaluation_prints_its_number_its_kind_and_its_notes(runs):
    found = likeli.evaluate(likeli.load(runs / "ppca"), likeli.load_data("gaussian"))
    first, *notes = str(found).splitlines()
    bits = f"{found.bits_per_dim:.3f} ± {found.bits_stderr:.3f} bits/dim"
    assert first == f"ppca: log p(x) = {found.nats:.2f} ± {found.stderr:.2f} nats, {bits}; 1000 examples, density"
    assert [note.strip() for note in notes] == found.notes
    assert "log p(x) ≥ -" in str(likeli.evaluate(likeli.load(runs / "vae"), likeli.load_data("digits"), rows=8, samples=1))

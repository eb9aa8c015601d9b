"""Whatever is wrong, the command line says so in one line, exits with 2, and writes nothing over."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from likeli.cli import main

sys.path.append(str(Path(__file__).parent.parent / "data"))

from bad_inputs import CANARY, REFUSED

FLAGS = {"kind", "labels", "seed"}


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Run a command that must be refused with exit code 2; gives the line that it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words, code=2):
        before = listing(tmp_path)
        assert main([str(w) for w in words]) == code
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("likeli: warning: ")]
        assert out == ""
        assert len(lines) == 1, err
        assert re.match(r"likeli: \S", lines[0])
        assert 10 <= len(lines[0]) <= 610
        assert "Traceback" not in err
        assert listing(tmp_path) == before
        return lines[0]

    return run


def listing(folder):
    """Sizes of all files, but for the lock that a run folder keeps."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]
    return {p: p.stat().st_size for p in files if p.name != ".lock"}


def on_a_command_line(maker, folder):
    """(source, flags) of a bad input that a command line can express, else None."""
    try:
        made = maker(folder)
    except TypeError:
        return None
    source, options = made if isinstance(made, tuple) and isinstance(made[-1], dict) else (made, {})
    plain = all(isinstance(v, (str, int)) for v in options.values()) and set(options) <= FLAGS
    if not isinstance(source, str) or not plain:
        return None
    return source, [f"--{k}={v}" for k, v in options.items()]


def test_most_bad_data_can_be_given_on_a_command_line(tmp_path):
    count = 0
    for i, (_, maker, _) in enumerate(REFUSED):
        (tmp_path / str(i)).mkdir()
        count += on_a_command_line(maker, tmp_path / str(i)) is not None
    assert count >= 90


@pytest.mark.parametrize("name, maker, pattern", REFUSED, ids=[r[0] for r in REFUSED])
def test_bad_data(name, maker, pattern, tmp_path, refused):
    given = on_a_command_line(maker, tmp_path)
    if given is None:
        return  # an object in memory: the tests of the Python interface have it
    source, flags = given
    assert re.search(pattern, refused("fit", source, "--model", "independent", "--out", tmp_path / "run", *flags))
    assert not Path(CANARY).exists()


OPTIONS = [
    ("--model vea", "unknown family 'vea'; did you mean vae"),
    ("--model os.system", "unknown family"),
    ("--model ../../vae", "unknown family"),
    ("--model vae --model.latnt_dim 3", "latnt_dim.*did you mean latent_dim"),
    ("--model vae --model.latent_dim three", "model.latent_dim: expected an integer, got three"),
    ("--model vae --model.latent_dim true", "model.latent_dim: expected an integer"),
    ("--model vae --model.latent_dim 2.5", "model.latent_dim: expected an integer"),
    ("--model vae --model.latent_dim -1", "latent_dim"),
    ("--model vae --model.latent_dim 0", "latent_dim"),
    ("--model vae --model.hidden 0", "hidden"),
    ("--model vae --model.hidden 8,x", "hidden"),
    ("--model vae --model.dropout 1.5", "dropout"),
    ("--model vae --model.dropout nan", "dropout"),
    ("--model vae --model.beta -1", "beta"),
    ("--model vae --model.activation swish", "activation"),
    ("--model vae --model.head no_head", "head"),
    ("--model vae --model._target_ os.system", "no such option"),
    ("--model vae --model._instantiator x", "no such option"),
    ("--model vae --model.class os.system", "class: vae has no such option"),
    ("--model vae --model.space x", "no such option"),
    ("--model vae --model.latent_dim", "expected a value"),
    ("--model ppca --model.latent_dim 64", "latent_dim"),
    ("--model gmm --model.components 0", "components"),
    ("--model gmm --model.components 5000", "components"),
    ("--model vae --train.lr -1", "train.lr"),
    ("--model vae --train.lr 1e30", "train.lr"),
    ("--model vae --train.lr nan", "train.lr"),
    ("--model vae --train.batch 0", "train.batch"),
    ("--model vae --train.batch 1.5", "train.batch"),
    ("--model vae --train.epochs -5", "no such training option"),
    ("--model vae --train.ema 1", "train.ema"),
    ("--model vae --train.precision 16", "train.precision"),
    ("--model vae --train.device tpu", "train.device"),
    ("--model vae --steps 0", "steps"),
    ("--model vae --steps -3", "steps"),
    ("--model vae --steps many", "steps"),
    ("--model vae --minutes 0", "minutes"),
    ("--model vae --minutes nan", "minutes"),
    ("--model vae --steps 3 --minutes 1", "one of the two"),
    (f"--model vae --seed {2**70}", "seed"),
    ("--model vae --seed -1", "seed"),
    ("--model gmm --labels", "labels: expected a family that takes them"),
    ("--model vae --labels colour", "labels"),
    ("--model vae --kind reel", "kind"),
    ("--model vae --stpes 3", "unknown option '--stpes'; did you mean --steps"),
    ("--model vae --step 3", "unknown option '--step'"),
    ("--model vae extra", "unknown option"),
    ("", "model: expected"),
    ("--model.latent_dim 3", "model: expected a family"),
]


@pytest.mark.parametrize("words, pattern", OPTIONS, ids=[w or "no model" for w, _ in OPTIONS])
def test_bad_options(words, pattern, tmp_path, refused):
    assert re.search(pattern, refused("fit", "digits", *words.split(), "--out", tmp_path / "run"))


@pytest.mark.parametrize(
    "text, pattern",
    [
        ("data: digits\nmodel: {class: vae, latnt_dim: 2}", "did you mean latent_dim"),
        ("data: digits\nmodel: {class: vae, latent_dim: true}", "latent_dim: expected an integer"),
        ("data: digits\nmodel: {class: vae, _target_: os.system}", "no such option"),
        ("data: digits\nmodel: {class: [vae]}", "model.class"),
        ("data: digits\nmodel: 3", "model"),
        ("data: digits\nmodel: {class: vae}\ntrain: {lr: [1]}", "train.lr"),
        ("data: digits\nmodel: {class: vae, head: {class: os.system}}", "head: expected one of"),
        ("data: digits\nmodel: vae\nsteps: true", "steps"),
        ("data: !!python/name:os.system\nmodel: vae", "line 1"),
    ],
)
def test_bad_config_files(text, pattern, tmp_path, refused):
    (tmp_path / "c.yaml").write_text(text)
    assert re.search(pattern, refused("fit", "--config", "c.yaml", "--out", tmp_path / "run"))


def test_bad_places(tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    fit = ["fit", "gaussian", "--model", "ppca", "--out"]
    assert "file" in refused(*fit, tmp_path / "file" / "run")
    assert "file" in refused(*fit, tmp_path / "file")
    assert "thesis.txt" in refused(*fit, tmp_path / "full")
    assert "name" in refused(*fit, tmp_path / ("x" * 300))
    assert "full" in refused("demo", "--out", tmp_path / "full")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    assert main(["fit", "gaussian", "--model", "ppca", "--quiet", "--out", str(folder / "run")]) == 0
    os.mkfifo(folder / "pipe")
    np.save(folder / "wide.npy", np.zeros((9, 3)) + np.arange(3))
    np.save(folder / "missing.npy", np.where(np.arange(18).reshape(9, 2) == 5, np.inf, 1.0))
    return folder


@pytest.mark.parametrize(
    "words, pattern",
    [
        ("score {run} {made}/wide.npy", r"shape \(rows, 2\), got shape \(9, 3\)"),
        ("score {run} {made}/missing.npy", "row 2, column 1"),
        ("score {run} nowhere.csv", "nowhere.csv"),
        ("score {run} {made}/wide.npy --out nowhere/s.csv", "existing folder"),
        ("score {run} {made}/wide.npy --out {made}/pipe --overwrite", "out: expected a regular file, got the device or pipe"),
        ("evaluate {run} --data {made}/wide.npy", r"got shape \(9, 3\)"),
        ("evaluate {run} --batch 0", "batch"),
        ("evaluate {run} --split all", "split"),
        ("evaluate {run} --likelihood.smaples 3", "no such option"),
        ("evaluate {run} --model vae", "unknown option"),
        ("evaluate nowhere", "nowhere"),
        ("sample {run} -n 0 --out s.npy", "n: expected"),
        ("sample {run} -n -5 --out s.npy", "n: expected"),
        ("sample {run} -n 1.5 --out s.npy", "n: expected an integer, got 1.5"),
        ("sample {run} --out s.gif", "ends in"),
        ("sample {run} --out s.txt", "not text"),
        ("sample {run} --out nowhere/s.npy", "existing folder"),
        ("sample {run} --out s.npy --seed -1", "seed"),
        ("sample {run} --out s.npy --label 3", "not conditional"),
        ("sample {run} --out s.npy --sample.stpes 3", "no such option"),
        ("history nowhere", "nowhere"),
        ("info {made}", "made"),
        ("list vea", "did you mean vae"),
        ("list --plugin nowhere.py", "nowhere.py"),
        ("fti digits", "did you mean fit"),
    ],
)
def test_bad_uses_of_a_run(words, pattern, made, refused):
    assert re.search(pattern, refused(*words.format(run=made / "run", made=made).split()))


def damages(generation):
    """Every way of damaging a run that a user may meet."""
    weights, config = generation / "model.safetensors", generation / "config.json"
    yield "truncated weights", lambda: weights.write_bytes(weights.read_bytes()[:-9])
    yield "flipped bit", lambda: weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    yield "edited config", lambda: config.write_text(config.read_text().replace("ppca", "gmm"))
    yield "no manifest", lambda: (generation / "manifest.json").unlink()
    yield "no weights", lambda: weights.unlink()
    yield "stranger", lambda: (generation / "evil.pkl").write_bytes(b"cos\nsystem\n")


@pytest.mark.parametrize("number", range(6))
def test_damaged_runs(number, made, tmp_path, refused):
    shutil.copytree(made / "run", tmp_path / "run")
    for generation in sorted((tmp_path / "run" / "checkpoints").iterdir()):
        name, damage = list(damages(generation))[number]
        damage()
    assert "run" in refused("info", "run"), name
    refused("sample", "run", "--out", "s.npy")
    refused("evaluate", "run")

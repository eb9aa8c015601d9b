"""A run from elsewhere chooses no file to open: its source is named, and asked for."""

import json
import os
from hashlib import sha256

import numpy as np
import pytest

import likeli
from likeli.cli import main


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def fitted(folder, name="table.csv"):
    np.savetxt(folder / name, np.random.default_rng(0).normal(size=(80, 2)), delimiter=",", header="a,b", comments="")
    assert main(["fit", f"{folder}/{name}", "--model", "gmm", "--model.components", "1", "--out", f"{folder}/run"]) == 0
    return folder / "run"


def nats(capsys, *words):
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["nats"]


def forge(run, change):
    """Edit config.json, with a manifest to match: what a stranger would send."""
    folder = max((run / "checkpoints").iterdir())
    config = json.loads((folder / "config.json").read_text())
    change(config["info"]["data"])
    data = json.dumps(config).encode()
    (folder / "config.json").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.json"] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("source", ["/etc/passwd", "hf:someone/something", "fifo"])
@pytest.mark.parametrize("verb", ["evaluate", "report", "doctor", "test"])
def test_a_strangers_source_is_named_and_not_opened(tmp_path, capsys, monkeypatch, source, verb):
    run = fitted(tmp_path)
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    monkeypatch.chdir(tmp_path)
    forge(run, lambda about: about.update(source=source))
    capsys.readouterr()
    assert main([verb, str(run)]) == 2
    said = capsys.readouterr().err
    assert source in said
    assert "--data" in said
    assert len(said.splitlines()) == 1


def test_ones_own_run_needs_no_words_and_a_moved_one_takes_the_same_split(tmp_path, capsys, monkeypatch):
    run = fitted(tmp_path)
    own = nats(capsys, run)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "another"))
    assert main(["evaluate", str(run)]) == 2
    assert nats(capsys, run, "--data", f"{tmp_path}/table.csv@test") == own
    assert nats(capsys, run, "--data", f"{tmp_path}/table.csv") != own
    assert main(["report", str(run), "--data", f"{tmp_path}/table.csv", "--out", f"{tmp_path}/r.html"]) == 0
    (tmp_path / "other.csv").write_text("a,b\n1,2\n3,4\n")
    assert main(["evaluate", str(run), "--data", f"{tmp_path}/other.csv@test"]) == 2


def test_a_data_file_whose_name_is_no_utf8_is_fitted_and_its_run_loads(tmp_path, capsys):
    run = fitted(tmp_path, os.fsdecode(b"caf\xe9.csv"))
    assert likeli.load(run).space.names == ("a", "b")
    assert np.isfinite(nats(capsys, run, "--data", os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")))
    assert main(["info", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("likeli: data: expected --data SOURCE, since the run's own rows are not found under their name ")
    assert told.endswith("caf\\udce9.csv, got nothing\n")

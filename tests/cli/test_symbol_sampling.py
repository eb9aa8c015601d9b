"""`likeli sample` of a diffusion of symbols: its own samplers by name, and a result that says when it is not a draw."""

import json

import pytest

import likeli
from likeli.cli import main
from likeli.models.discrete_diffusion import DiscreteDiffusion, SymbolBackbone
from likeli.random import seeded
from likeli.spaces import Tokens


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("symbols") / "run"
    with seeded(0):
        likeli.save(DiscreteDiffusion(Tokens(6, 4), backbone=SymbolBackbone(hidden=(8,))), folder)
    return str(folder)


def sample(run, out, capsys, *options):
    code = main(["sample", run, "-n", "5", "--out", str(out), "--json", *options])
    told = capsys.readouterr()
    return code, json.loads(told.out), told.err


@pytest.mark.parametrize("name", ["ancestral", "cached", "confidence", "remasking", "blocks"])
def test_the_familys_own_samplers_are_reached_by_name(run, name, tmp_path, capsys):
    out = tmp_path / "x.csv"
    code, told, _ = sample(run, out, capsys, "--sampler", name, "--steps", "3")
    assert code == 0
    own_law = name in ("confidence", "remasking", "blocks")
    assert told["note"].startswith("not draws of the model") == own_law
    beside = tmp_path / "x.csv.json"
    assert beside.exists() == own_law
    if own_law:
        kept = json.loads(beside.read_text())
        assert kept["note"] == told["note"]
        assert kept["options"]["sampler"] == name


@pytest.mark.parametrize("option, value", [("temperature", "0.5"), ("top_p", "0.9")])
def test_a_temperature_is_told_in_the_line_and_beside_the_file(run, option, value, tmp_path, capsys):
    out = tmp_path / "x.npy"
    assert main(["sample", run, "-n", "3", "--out", str(out), f"--sample.{option}", value]) == 0
    line = capsys.readouterr().out
    assert f"not draws of the model that the bound is of: {option} {value}" in line
    assert option in json.loads((tmp_path / "x.npy.json").read_text())["note"]
    code, told, _ = sample(run, out, capsys, "--overwrite")  # what it said is put right
    assert code == 0
    assert told["note"] == json.loads((tmp_path / "x.npy.json").read_text())["note"] == ""


def test_what_is_beside_a_new_file_is_not_written_over(run, tmp_path, capsys):
    (tmp_path / "x.csv.json").write_text("mine")
    code, told, _ = sample(run, tmp_path / "x.csv", capsys, "--sampler", "remasking")
    assert code == 2
    assert "x.csv.json, which exists" in told["error"]
    assert (tmp_path / "x.csv.json").read_text() == "mine"


@pytest.mark.parametrize("options, message", [
    (("--sampler", "adams"), "sampler: expected one of ancestral, cached, confidence, remasking, blocks for"),
    (("--sample.temperature", "-1"), "temperature: expected a positive number"),
    (("--sample.top_p", "0"), "top_p: expected above 0"),
    (("--steps", "0"), "steps: expected a whole number of at least 1"),
    (("--grid", "time", "--steps", "3"), "grid"),
])  # fmt: skip
def test_bad_requests_are_one_line(run, options, message, tmp_path, capsys):
    code, told, err = sample(run, tmp_path / "x.csv", capsys, *options)
    assert code == 2
    assert message in told["error"]
    assert "Traceback" not in err
    assert not (tmp_path / "x.csv").exists()

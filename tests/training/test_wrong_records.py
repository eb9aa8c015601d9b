"""A wrong value in what a run says of itself is refused in one line, whichever it is."""

import json
from hashlib import sha256

import numpy as np
import pytest

from likeli.cli import main

WRONG = (None, True, -1, "x", [])
MORE = pytest.param((1.5, 10**12, {}, [1, 2], {"a": 1}, "NaN"), marks=pytest.mark.slow, id="more")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    np.savetxt(folder / "t.csv", np.random.default_rng(0).normal(size=(60, 2)), delimiter=",", header="a,b", comments="")
    assert main(fit(folder, "4")) == 0
    return folder


def fit(folder, steps, *more):
    words = ["--model", "vae", "--model.hidden", "4", "--train.batch", "16", "--steps", steps, "--quiet"]
    return ["fit", f"{folder}/t.csv", *words, "--out", f"{folder}/run", *more]


def sign(generation, name, data):
    (generation / name).write_bytes(data)
    manifest = json.loads((generation / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (generation / "manifest.json").write_text(json.dumps(manifest))


def places(value, path=()):
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


@pytest.mark.parametrize("wrong", [pytest.param(WRONG, id="few"), MORE])
@pytest.mark.parametrize("name", ["train_state.json", "config.json"])
def test_no_wrong_value_ends_in_an_error_that_nobody_expected(run, name, wrong, capsys):
    generation = max((run / "run" / "checkpoints").iterdir())
    whole, manifest = (generation / name).read_bytes(), (generation / "manifest.json").read_bytes()
    older = [p for p in (run / "run" / "checkpoints").iterdir() if p != generation]
    for folder in older:  # nothing to fall back to
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    seen = refused = 0
    try:
        tree = json.loads(whole)
        for path in places(tree if name == "train_state.json" else {"info": tree["info"]}):
            if path[:3] in (("info", "data", "space"), ("info", "data", "condition")):
                continue
            for value in wrong:
                changed = json.loads(whole)
                inner = changed
                for key in path[:-1]:
                    inner = inner[key]
                if inner[path[-1]] == value:
                    continue
                inner[path[-1]] = value
                sign(generation, name, json.dumps(changed).encode())
                words = fit(run, "4", "--resume") if name == "train_state.json" else ["evaluate", str(run / "run")]
                code = main(words)
                said = capsys.readouterr().err
                seen, refused = seen + 1, refused + (code == 2)
                assert code in (0, 2), (path, value, said)
                assert "unexpected" not in said, (path, value, said)
                if name == "train_state.json" and path[-1] == "step":
                    assert code == 2, (path, value)
    finally:
        (generation / name).write_bytes(whole)
        (generation / "manifest.json").write_bytes(manifest)
    assert refused > seen / 2

"""Rows that stay in Parquet files: the same types, scale and split however they are cut into files, and one exact order."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import likeli
from likeli.cli import main
from likeli.data import load_rows
from likeli.data.stream import part_of_rows
from likeli.errors import InputError
from likeli.evaluation.imputation import Imputation
from likeli.training.batches import gather
from torture import times


def written(folder, frame, files=3, group=400):
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(np.array_split(np.arange(len(frame)), files)):
        frame.iloc[part].to_parquet(folder / f"part{i}.parquet", row_group_size=group, index=False)
    return str(folder)


def reals(n=5000, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3)) * [1, 5, 1e-3] + [0, 1e6, 7]
    return pd.DataFrame(x, columns=["a", "b", "c"])


def mixed(n=2000):
    rng = np.random.default_rng(1)
    frame = reals(n).assign(
        whole=rng.integers(0, 50, n),
        kind=rng.choice(["red", "green", "blue"], n),
        day=pd.to_datetime("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, n), "D"),
        flag=rng.random(n) < 0.3,
        y=rng.integers(0, 4, n),
    )
    frame.loc[n - 3, "kind"] = "rare"  # in one row of all
    frame.loc[n - 2, "c"] = np.nan
    return frame


def order_of(data, model, epoch, batch=128, seed=0):
    train, _ = gather(model, data)
    rows = train.shuffled(seed, epoch)
    return [rows(slice(i, min(i + batch, len(train))))[0] for i in range(0, len(train), batch)]


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr("likeli.data.stream.CELLS_OF_A_WINDOW", 2500)
    monkeypatch.setattr("likeli.data.table_stream.FEWEST_TABLE_ROWS", 600)
    monkeypatch.setattr("likeli.data.table_stream.CELLS_OF_THE_SAMPLE", 600)
    monkeypatch.setattr("likeli.data.readers.shards.CELLS_AT_ONCE", 700)


@pytest.mark.usefixtures("small_windows")
def test_mean_and_scale_are_those_of_all_training_rows(tmp_path):
    frame = reals()
    data = likeli.load_data(written(tmp_path / "rows", frame), seed=3)
    assert 500 < len(data) < 800  # a sample, and the rows with the extremes
    train = frame.to_numpy()[part_of_rows(0, len(frame), 3, data.fractions)[0] == 0]
    assert len(data.stream) == len(train)
    np.testing.assert_allclose(data.space.mean, train.mean(0), rtol=1e-12)
    np.testing.assert_allclose(data.space.scale, train.std(0), rtol=1e-9)


@pytest.mark.usefixtures("small_windows")
def test_an_epoch_is_all_training_rows_once_in_an_order_of_its_own(tmp_path):
    frame = reals()
    data = likeli.load_data(written(tmp_path / "rows", frame), seed=3)
    model = likeli.Flow(data.space)
    first, again, next_one = (torch.cat(order_of(data, model, epoch)) for epoch in (0, 0, 1))
    train = frame.to_numpy()[part_of_rows(0, len(frame), 3, data.fractions)[0] == 0]
    assert torch.equal(first, again)
    assert not torch.equal(first, next_one)
    for epoch in (first, next_one):
        np.testing.assert_array_equal(epoch[epoch[:, 0].argsort()].numpy(), train[train[:, 0].argsort()])
    place = pd.Series(np.arange(len(frame)), index=frame["a"])[first[:, 0].numpy()].to_numpy()
    assert abs(np.corrcoef(place, np.arange(len(place)))[0, 1]) < 0.5  # 12 blocks in a random order; 1 if it were not shuffled
    assert (np.diff(place) == 1).mean() < 0.02  # neighbours of a file are none of the order


@pytest.mark.usefixtures("small_windows")
def test_any_place_of_the_order_can_be_asked_for_at_once(tmp_path):
    data = likeli.load_data(written(tmp_path / "rows", reals()))
    train, _ = gather(likeli.Flow(data.space), data)
    whole = train.shuffled(0, 2)(slice(0, len(train)))[0]
    for start, stop in ((3000, 3001), (17, 2900), (len(train) - 1, len(train)), (800, 900)):
        assert torch.equal(train.shuffled(0, 2)(slice(start, stop))[0], whole[start:stop])


def test_the_split_is_a_function_of_seed_and_row():
    fractions = (0.7, 0.2, 0.1)
    whole = part_of_rows(0, 200_000, 5, fractions)[0]
    assert np.array_equal(whole[777:900], part_of_rows(777, 123, 5, fractions)[0])
    assert not np.array_equal(whole, part_of_rows(0, 200_000, 6, fractions)[0])
    shares = np.bincount(whole) / len(whole)
    sigma = np.sqrt(np.array(fractions) * (1 - np.array(fractions)) / len(whole))
    assert (np.abs(shares - fractions) < 5 * sigma).all()
    u = part_of_rows(0, 200_000, 5, fractions)[1]
    assert 0 <= u.min() <= u.max() <= 1
    assert abs(u[whole == 2].mean() - 0.5) < 5 / np.sqrt(12 * (whole == 2).sum())
    assert set(part_of_rows(0, 1000, 5, (1.0, 0.0, 0.0))[0]) == {0}


@pytest.mark.usefixtures("small_windows")
def test_columns_have_the_types_that_one_file_gives_them(tmp_path):
    frame = mixed()
    whole = tmp_path / "all.parquet"
    frame.to_parquet(whole, index=False)
    one, many = (likeli.load_data(str(s), labels="y") for s in (whole, written(tmp_path / "rows", frame)))
    assert [(c.name, c.type, c.categories) for c in many.space.columns] == [
        (c.name, c.type, c.categories) for c in one.space.columns
    ]
    assert "rare" in many.space.columns[4].categories
    assert many.condition.shape == one.condition.shape
    assert many.condition.classes == one.condition.classes == 4
    for ours, theirs in zip(many.space.columns, one.space.columns):
        assert str(ours.calendar) == str(theirs.calendar)
    split = [set(getattr(many, part).tolist()) for part in ("train", "valid", "test")]
    assert not (split[0] & split[1] or split[0] & split[2] or split[1] & split[2])


@pytest.mark.usefixtures("small_windows")
def test_all_rows_are_coded_as_from_one_file(tmp_path):
    frame = mixed()
    frame.to_parquet(tmp_path / "all.parquet", index=False)
    data = likeli.load_data(written(tmp_path / "rows", frame), labels="y", types={"flag": "drop"})
    known = {"labels": "y", "condition": data.condition}
    x, y = load_rows(str(tmp_path / "rows"), data.space, **known)
    a, b = load_rows(str(tmp_path / "all.parquet"), data.space, **known)
    torch.testing.assert_close(x, a, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(y, b)


@pytest.mark.usefixtures("small_windows")
def test_a_run_resumed_twice_has_the_losses_and_weights_of_one_that_never_stopped(tmp_path, monkeypatch):
    from likeli.training.run import Run

    source = written(tmp_path / "rows", mixed(1000))

    def run(out, stop=None):
        data = likeli.load_data(source, labels="y")
        rate = Run.rate

        def stopping(self):
            if self.step == stop:
                os.kill(os.getpid(), 15)
            return rate(self)

        monkeypatch.setattr(Run, "rate", stopping)
        torch.manual_seed(0)
        model = likeli.VAE(data.space, latent_dim=2, condition=data.condition)
        try:
            likeli.fit(model, data, steps=24, batch=100, log_every=1, out=out, resume=True, progress=False)
        except likeli.Interrupted:
            pass
        finally:
            monkeypatch.setattr(Run, "rate", rate)
        return model

    whole = run(tmp_path / "whole")
    for stop in (5, 15, None):  # within the first epoch of 8 batches, and within the second
        cut = run(tmp_path / "cut", stop)
    rows = [pd.read_json(tmp_path / name / "history.jsonl", lines=True, precise_float=True) for name in ("whole", "cut")]
    assert rows[0].drop(columns="seconds").equals(rows[1].drop(columns="seconds"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), cut.state_dict().values()))


@pytest.mark.usefixtures("small_windows")
def test_files_are_scored_and_filled_part_by_part(tmp_path, capsys, monkeypatch):
    frame = reals(500)
    source = written(tmp_path / "rows", frame)
    run = str(tmp_path / "run")
    assert main(["fit", source, "--model", "vae", "--steps", "5", "--out", run, "--quiet"]) == 0
    frame.to_parquet(tmp_path / "all.parquet", index=False)
    for name, rows in (("many", source), ("one", str(tmp_path / "all.parquet"))):
        assert main(["score", run, rows, "--out", str(tmp_path / f"{name}.csv"), "--likelihood.samples", "2"]) == 0
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    holes = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.01).assign(key=range(len(frame)))
    out, cells = tmp_path / "filled.csv", tmp_path / "cells.csv"
    words = ["impute", run, written(tmp_path / "holes", holes), "--draws", "20", "--out", str(out), "--cells", str(cells)]
    parts = []
    monkeypatch.setattr(Imputation, "note", property(lambda part: parts.append(part) or "unsure" * (part is parts[0])))
    assert main([*words, "--samples", "20"]) == 0
    told = capsys.readouterr().err
    assert parts[-1] is not parts[0]
    assert re.search(r"draws may be off: rows 0 to \d+: unsure\n", told)  # said though the last part is sound
    filled = pd.read_csv(out, float_precision="round_trip")
    assert list(filled.columns) == list(holes.columns)
    assert filled["key"].tolist() == list(range(len(frame)))
    assert not filled.isna().any().any()
    there = holes.notna().to_numpy()
    np.testing.assert_array_equal(filled.to_numpy()[there], holes.to_numpy()[there])
    assert pd.read_csv(cells)["row"].tolist() == np.nonzero(~there)[0].tolist()
    assert main(["score", run, source]) == 2
    assert "out: expected --out FILE.csv" in capsys.readouterr().err


def evaluated(capsys, words):
    assert main(["evaluate", *words, "--json"]) == 0
    return {k: v for k, v in json.loads(capsys.readouterr().out).items() if k != "seconds"}


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("labels", [[], ["--labels", "y"]])
def test_files_are_evaluated_part_by_part_with_the_numbers_of_one(tmp_path, capsys, monkeypatch, labels):
    """The mean, its error, what is said of it and the numbers of rows, of all and of some; no two parts are in memory."""
    frame = mixed(900).drop(columns=["kind", "day", "flag"]).dropna()
    many, one, run = written(tmp_path / "rows", frame), str(tmp_path / "all.parquet"), str(tmp_path / "run")
    frame.to_parquet(one, index=False)
    fit = ["fit", one, "--model", "vae", "--steps", "5", "--out", run, "--quiet", *labels]
    assert main(fit) == 0
    capsys.readouterr()
    few = ["--likelihood.samples", "2"]
    whole = [evaluated(capsys, [run, "--data", one, "--out", str(tmp_path / "one.csv"), *few, *some]) for some in SOME]
    monkeypatch.setattr("likeli.cli.verbs.evaluate.rows_for", lambda *a, **k: pytest.fail("read at once"))
    monkeypatch.setattr("likeli.cli.verbs.evaluate.WRITTEN", 100)
    for some, expected in zip(SOME, whole):
        out = tmp_path / "many.csv"
        found = evaluated(capsys, [run, "--data", many, "--out", str(out), *few, *some])
        assert found == expected
    assert out.read_bytes() == (tmp_path / "one.csv").read_bytes()
    some = evaluated(capsys, [run, "--data", many, "--minutes", "5", "--rows", "70", *few])
    assert some["nats"] == pytest.approx(whole[1]["nats"], rel=1e-12)
    assert some["examples"] == 70


SOME = [["--overwrite"], ["--rows", "70", "--overwrite"]]


def damage(folder, how):
    path = folder / "part1.parquet"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "torn":  # inside: its end is sound
        content = bytearray(path.read_bytes())
        content[4:400] = bytes(396)
        path.write_bytes(content)
    elif how == "schema":
        pd.read_parquet(path).astype({"b": str}).to_parquet(path, index=False)
    elif how == "column":
        pd.read_parquet(path).drop(columns="b").to_parquet(path, index=False)
    elif how == "empty":
        for p in folder.glob("*.parquet"):
            pq.write_table(pa.table({"a": pa.array([], pa.float64())}), p)
    elif how == "groups":
        pq.write_table(pa.table({f"c{i}": np.zeros(40_000) for i in range(900)}), path)
        for p in folder.glob("part[02].parquet"):
            p.unlink()
    else:
        for p in folder.glob("*.parquet"):
            p.unlink()


@pytest.mark.parametrize(
    "how, told",
    [
        ("truncated", "part1.parquet: cannot be read as parquet"),
        ("torn", "part1.parquet: cannot be read as parquet"),
        ("schema", "part1.parquet, column b: expected double as in part0.parquet, got"),
        ("column", "part1.parquet, column b: expected double as in part0.parquet, got no such column"),
        ("empty", "rows: expected at least 2 rows, got none in any of its files"),
        ("groups", "row group 0: expected at most 37,282 rows of 900 columns, got 40,000; write it with row_group_size="),
        ("nothing", "rows: expected .parquet files or pictures"),
    ],
)
def test_bad_files_are_one_line_before_any_work(tmp_path, capsys, how, told):
    source = written(tmp_path / "rows", reals(600))
    damage(tmp_path / "rows", how)
    assert main(["fit", source, "--model", "vae", "--steps", "5", "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert told in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_file_that_changes_between_epochs_ends_the_run_with_one_line(tmp_path, capsys, monkeypatch):
    from likeli.training.run import Run

    source, run, rate = written(tmp_path / "rows", reals(600)), str(tmp_path / "run"), Run.rate

    def changing(self):
        if self.step == 6:
            frame = reals(600, seed=9).iloc[:200]
            frame.to_parquet(tmp_path / "rows" / "part1.parquet", row_group_size=400, index=False)
        return rate(self)

    monkeypatch.setattr(Run, "rate", changing)
    words = ["fit", source, "--model", "vae", "--steps", "40", "--train.batch", "100", "--out", run, "--quiet"]
    assert main(words) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "part1.parquet: expected the file as it was when its rows were first read" in told
    assert likeli.load(run).kind() == "vae"
    monkeypatch.setattr(Run, "rate", rate)
    assert main(["fit", "--resume", "--out", run, "--quiet"]) == 2
    assert "expected the rows that the run was fitted on" in capsys.readouterr().err


def test_what_rows_in_files_are_not_for_is_said(tmp_path):
    data = likeli.load_data(written(tmp_path / "rows", reals(600)))
    with pytest.raises(InputError, match="a family trained in batches, such as flow or vae, for rows that stay in files, got"):
        likeli.fit(likeli.GMM(data.space, 2), data, progress=False)
    with pytest.raises(InputError, match="sample_weight: expected nothing for rows that stay in files"):
        likeli.fit(likeli.Flow(data.space), data, sample_weight=np.ones(len(data)), progress=False)
    with pytest.raises(InputError, match="labels: expected a column of rows, got 'd'"):
        likeli.load_data(str(tmp_path / "rows"), labels="d")
    with pytest.raises(InputError, match="data: expected files that fit"):
        likeli.load_data(str(tmp_path / "*.parquet"))
    pattern = likeli.load_data(str(tmp_path / "rows" / "part[01].parquet"))
    assert len(pattern) == 400
    again = likeli.data.rebuild(data.describe())
    assert torch.equal(again.x, data.x)
    part = tmp_path / "rows" / "part2.parquet"
    pd.read_parquet(part).iloc[::-1].to_parquet(part, index=False)
    with pytest.raises(InputError, match="other rows: the source has changed"):
        likeli.data.rebuild(data.describe())


USES = {
    "fit": "likeli.fit(likeli.VAE(data.space), data, steps=60, batch=2000, progress=False, out=sys.argv[2])",
    "score": "main(['score', sys.argv[2], sys.argv[1], '--out', sys.argv[2] + '.csv', '--likelihood.samples', '1', '--json'])",
    "impute": "main(['impute', sys.argv[2], sys.argv[1], '--out', sys.argv[2] + '2.csv', '-n', '2', '--samples', '2'])",
}


def peaks(source, run):
    """MiB above what the imports take, of fitting, scoring and filling."""
    found = {}
    for use, line in USES.items():
        script = f"""
import resource, sys
import pandas, torch, pyarrow.parquet, likeli
from likeli.cli import main
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
base = peak()
data = likeli.load_data(sys.argv[1])
{line}
print(peak() - base)
"""
        words = [sys.executable, "-c", script, str(source), str(run)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, timeout=9000, env=env, check=True)
        found[use] = float(done.stdout.split()[-1])
    return found


def large(folder, mebibytes):
    """Parquet files of 32 MiB each, of 16 columns of random numbers, which no coding makes smaller."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(mebibytes // 32):
        x = rng.standard_normal((2**18, 16))
        x[rng.random(len(x)) < 1e-4, 3] = np.nan
        table = pa.table({f"c{j}": x[:, j] for j in range(16)})
        pq.write_table(table, folder / f"{i:04}.parquet", row_group_size=2**16, compression="none", use_dictionary=False)
    return folder


MEBIBYTES = times(128, 2048)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_rows(tmp_path, record_property):
    small, big = (peaks(large(tmp_path / str(size), size), tmp_path / f"run{size}") for size in (32, MEBIBYTES))
    told = ", ".join(f"{use} {big[use]:.0f}" for use in USES)
    record_property("figure", f"{MEBIBYTES} MiB of Parquet, MiB of memory above the imports: {told}")
    for use in USES:
        assert big[use] < small[use] + 48 + 256 * (MEBIBYTES > 128), (use, small, big)
        assert big[use] < 1024, (use, small, big)

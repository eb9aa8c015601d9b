"""A table that is written part by part is the same after a kill at any place, and parts of another command stay out of it."""

import os
import shutil
import signal

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest

from likeli.checkpoint import disk
from likeli.cli import kept_parts
from likeli.cli.app import main


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A run with labels, 300 rows with gaps in two files and in one, and a run of labels."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    kind = rng.integers(0, 2, 300)
    frame = pandas.DataFrame({"age": rng.poisson(20 + 15 * kind), "height": rng.normal(size=300) + kind})
    frame["town"] = np.array(["Oslo", "Rome"])[kind]
    frame.to_csv(folder / "fit.csv", index=False)
    frame.assign(kind=np.array(["cat", "dog"])[kind]).to_csv(folder / "labelled.csv", index=False)
    holed = frame.astype({"age": "Int64"}).assign(key=range(300))
    holed.loc[3::7, "age"], holed.loc[150::5, "height"], holed.loc[::9, "town"] = None, None, None  # no gap of height at first
    holed.to_parquet(folder / "one.parquet", index=False)
    (folder / "many").mkdir()
    for i in range(2):
        holed[150 * i : 150 * i + 150].to_parquet(folder / "many" / f"{i}.parquet", index=False)
    fit = ["--model", "vae", "--steps", "5", "--quiet"]
    assert main(["fit", str(folder / "fit.csv"), *fit, "--out", str(folder / "run")]) == 0
    assert main(["fit", str(folder / "labelled.csv"), *fit, "--labels", "kind", "--out", str(folder / "labels")]) == 0
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(kept_parts, "ROWS_OF_A_PART", 64)
    monkeypatch.setattr("likeli.cli.verbs.sample.ROWS_OF_A_PART", 64)


WORDS = {
    "score": ["score", "run", "many", "--likelihood.samples", "2", "--out"],
    "score one": ["score", "run", "one.parquet", "--likelihood.samples", "2", "--out"],
    "impute": ["impute", "run", "many", "-n", "19", "--samples", "19", "--cells", "cells.csv", "--out"],
    "draws": ["impute", "run", "one.parquet", "-n", "2", "--samples", "20", "--fill", "draws", "--out"],
    "sample": ["sample", "labels", "-n", "300", "--out"],
}
FILE_CALLS = ("write_new", "rename", "writing", "remove_folder")


def killed(words, at):
    """Run a command in a process that kills itself at its file call number `at`; whether it did not come to its end."""
    child = os.fork()
    if not child:
        calls = iter(range(at))
        for name in FILE_CALLS:
            setattr(disk, name, dying(getattr(disk, name), calls))
        os._exit(main(words))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def dying(call, calls):
    def instead(*args):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)

    return instead


@pytest.mark.parametrize("verb,suffix", [*zip(WORDS, [".parquet", ".csv"] * 3), ("sample", ".parquet")])
def test_killed_at_any_file_call_it_goes_on_to_the_same_table(desk, tmp_path, monkeypatch, verb, suffix):
    monkeypatch.chdir(desk)
    words = [str(tmp_path / word) if word == "cells.csv" else word for word in WORDS[verb]]
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    assert main([*words, str(whole)]) == 0
    cells = (tmp_path / "cells.csv").read_bytes() if "--cells" in words else b""
    (tmp_path / "cells.csv").unlink(missing_ok=True)
    for place in range(1, 999, 11):
        if not killed([*words, str(cut)], place):
            break
        assert not cut.exists()
    assert place > 30
    assert not [p.name for p in tmp_path.iterdir() if "parts" in p.name or "partial" in p.name]
    if suffix == ".csv":
        assert whole.read_bytes() == cut.read_bytes()
    else:
        assert pq.read_table(whole).equals(pq.read_table(cut), check_metadata=True)
    assert not cells or (tmp_path / "cells.csv").read_bytes() == cells


def stopped(words, after, monkeypatch, number=signal.SIGTERM):
    """Run a command to which a signal comes after so many parts."""
    add, count = kept_parts.KeptParts.add, iter(range(after))

    def stopping(self, *args):
        if next(count, None) is None:
            os.kill(os.getpid(), number)
        add(self, *args)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(kept_parts.KeptParts, "add", stopping)
            return main(words)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_kept_is_said_and_nothing_is_left_of_a_first_part(desk, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    out, words = tmp_path / "s.csv", [*WORDS["score"], str(tmp_path / "s.csv")]
    assert stopped(words, 0, monkeypatch) == 143
    assert not list(tmp_path.iterdir())
    assert stopped(words, 2, monkeypatch, signal.SIGINT) == 130
    *_, kept, told = capsys.readouterr().err.splitlines()
    assert kept == f"likeli: 128 rows are kept in {out}.parts; the same command goes on after them"
    assert told == "likeli: stopped by SIGINT"
    assert [p.name for p in tmp_path.iterdir()] == ["s.csv.parts"]
    assert main(words) == 0
    assert f"going on after 128 rows in {out}.parts" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["s.csv"]
    written = out.read_bytes()
    assert main(words) == 2
    assert "s.csv, which exists" in capsys.readouterr().err
    assert out.read_bytes() == written


@pytest.mark.parametrize("what", ["options.seed", "files", "run"])
def test_parts_of_another_command_stay_out(desk, tmp_path, monkeypatch, capsys, what):
    source = tmp_path / "rows.parquet"
    frame = pandas.read_parquet(desk / "one.parquet")
    frame.to_parquet(source, index=False)
    shutil.copytree(desk / "run", tmp_path / "run")
    run = ["score", str(tmp_path / "run"), str(source), "--likelihood.samples", "2"]
    first, second = [*run, "--out", str(tmp_path / "a.csv")], [*run, "--out", str(tmp_path / "b.csv")]
    assert stopped(first, 2, monkeypatch) == 143
    if what == "options.seed":
        first, second = [*first, "--seed", "1"], [*second, "--seed", "1"]
    elif what == "files":
        frame.iloc[::-1].to_parquet(source, index=False)
    else:
        fit = ["fit", str(desk / "fit.csv"), "--model", "vae", "--steps", "6", "--quiet", "--overwrite"]
        assert main([*fit, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(first) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "parts" in line]
    assert len(told) == 1
    assert f"a.csv.parts is of another command ({what}" in told[0] and "begins anew" in told[0]
    assert main(second) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_folder_that_is_not_ours_is_left_alone(desk, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    folder = tmp_path / "s.csv.parts"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear")
    assert main([*WORDS["score"], str(tmp_path / "s.csv")]) == 2
    assert "diary.txt" in capsys.readouterr().err
    assert [p.name for p in folder.iterdir()] == ["diary.txt"]
    (folder / "diary.txt").unlink()
    with disk.lock(folder):
        monkeypatch.setattr(disk, "try_lock", lambda fd: False)
        assert main([*WORDS["score"], str(tmp_path / "s.csv")]) == 2
    assert "nobody is writing" in capsys.readouterr().err


def test_a_part_that_lacks_what_others_have_has_their_type(tmp_path):
    from likeli.data import join_parts, write_part

    parts = [{"n": [1, None], "s": [None, None], "z": [None, None]}, {"n": [0.5, 2**60], "s": ["a", None], "z": [None, None]}]
    paths = [tmp_path / f"{i}.parquet" for i in range(2)]
    for number, (path, columns) in enumerate(zip(paths, parts)):
        write_part(path, pandas.DataFrame(columns), number)
    join_parts(paths, tmp_path / "all.parquet")
    found = pq.read_table(tmp_path / "all.parquet")
    assert [str(t) for t in found.schema.types] == ["double", "large_string", "double"]
    assert found["n"].to_pylist() == [1.0, None, 0.5, 2.0**60]
    assert pq.ParquetFile(tmp_path / "all.parquet").metadata.num_row_groups == 2

"""Tables in files: what was written is what is read, to the bit, and nothing written can run."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from likeli.data import columns_of, load_data, load_rows, rebuild, write_csv, write_npy
from likeli.data.readers.tables import harmless, read_csv
from likeli.errors import MissingExtra
from likeli.spaces.base import Labels, Real

RNG = np.random.default_rng(1)
X = RNG.normal(size=(50, 3)) * [1, 10, 0.1] + [5, 0, -2]
GREY = RNG.integers(0, 256, (20, 6, 5), dtype=np.uint8)


def table(tmp, text, name="a.csv"):
    (tmp / name).write_text(text, encoding="utf-8")
    return str(tmp / name)


def test_csv_reads_what_pandas_wrote(tmp_path):
    frame = pd.DataFrame({
        "real": np.r_[RNG.normal(size=300) * 10.0 ** RNG.integers(-300, 100, 300)],
        "whole": RNG.integers(-(2**52), 2**52, 300),
        "gap": np.where(RNG.random(300) < 0.2, np.nan, RNG.normal(size=300)),
        "text": RNG.choice(["u", "v, w", 'say "x"', "two\nlines", "é"], 300),
    })
    frame.to_csv(tmp_path / "a.csv", index=False)
    got = read_csv(tmp_path / "a.csv")
    assert got.names == list(frame.columns)
    for name, column in zip(got.names[:3], got.columns):
        np.testing.assert_array_equal(column, frame[name].to_numpy(float))
    assert got.columns[3] == frame["text"].tolist()
    assert got.whole == [False, True, False, False]
    assert got.lines[0] == 2
    lines = (tmp_path / "a.csv").read_text().split("\n")
    assert all(lines[line - 1].startswith(str(frame["real"][i])) for i, line in enumerate(got.lines))


def test_blocks_of_rows_agree_on_a_columns_type(tmp_path):
    """pandas types a large file in blocks: one whose first are numbers and whose later ones are texts is a column of texts."""
    path = table(tmp_path, "a,b,c\n" + "1,2,True\n" * 300_000 + "x,2.5,True\n" * 300_001)
    got = read_csv(path)
    assert got.columns[0] == ["1"] * 300_000 + ["x"] * 300_001
    assert got.whole == [False, False, False]
    assert got.columns[1].tolist() == [2] * 300_000 + [2.5] * 300_001
    assert set(got.columns[2]) == {"True"}
    assert got.lines == range(2, 600_003)


def test_a_mixed_table(tmp_path):
    text = "h,n,c,y\n" + "".join(f"{i * 0.5},{i},{'uvw'[i % 3]},{['no', 'yes'][i % 2]}\n" for i in range(40)) + "?,,NA,no\n"
    data = load_data(table(tmp_path, text), labels="y")
    assert [c.type for c in data.space.columns] == ["real", "integer", "categorical"]
    assert data.space.columns[2].categories == ("u", "v", "w")
    assert data.space.measure == "mixed"
    assert data.condition.names == ("no", "yes")
    assert data.y.tolist() == [i % 2 for i in range(40)] + [0]
    assert data.x[40].isnan().all()
    assert data.x[4].tolist() == [2.0, 4, 1]
    train = data.x[data.train]
    u = data.space.to_model(train[~train.isnan().any(1)], torch.float64)
    assert abs(u[:, 0].mean()) < 0.1
    flags = [c.missing for c in data.space.columns]
    assert flags == [bool(train[:, i].isnan().any()) for i in range(3)]


def test_labels_by_number_keep_their_meaning(tmp_path):
    """1 … 3 become classes named 1 … 3, so that no class is empty; 0 … 2 stay what they are."""
    one = load_data(table(tmp_path, "a,y\n" + "1.5,1\n2.5,2\n3.5,3\n" * 9), labels="y")
    zero = load_data(table(tmp_path, "a,y\n" + "1.5,0\n2.5,1\n3.5,2\n" * 9), labels="y")
    assert (one.condition.names, zero.condition.names) == (("1", "2", "3"), ())
    assert one.y.tolist() == zero.y.tolist() == [0, 1, 2] * 9


@pytest.mark.parametrize("y, kind", [(np.arange(50) % 4, Labels), (["a", "b"] * 25, Labels), (RNG.normal(size=(50, 2)), Real)])
def test_labels_in_memory(y, kind):
    data = load_data(X, labels=y)
    assert type(data.condition) is kind
    assert len(data.y) == 50
    data.condition.check(data.y)
    series = load_data(X, labels=pd.Series(list(y)) if kind is Labels else y)
    assert torch.equal(series.y, data.y)


def test_npz_labels_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=GREY, train_labels=np.arange(20) % 3, other=X)
    data = load_data(f"{tmp_path}/a.npz:train_images", labels="train_labels")
    assert data.y.tolist() == [i % 3 for i in range(20)]
    np.save(tmp_path / "y.npy", np.arange(20) % 2)
    data = load_data(f"{tmp_path}/a.npz:train_images", labels=f"{tmp_path}/y.npy")
    assert data.y.tolist() == [i % 2 for i in range(20)]
    assert rebuild(data.describe()).fingerprint() == data.fingerprint()


def test_parquet_equals_the_frame_it_came_from(tmp_path):
    frame = pd.DataFrame({"a": X[:, 0], "b": [1, None] * 25, "c": ["u", None] * 25, "d": [True, False] * 25})
    frame.to_parquet(tmp_path / "a.parquet")
    a, b = load_data(str(tmp_path / "a.parquet")), load_data(frame)
    assert torch.equal(a.x.nan_to_num(-9), b.x.nan_to_num(-9))
    assert a.describe()["space"] == b.describe()["space"]


def test_parquet_without_pyarrow_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtra, match=r"pip install 'likeli\[data\]'"):
        load_data(str(tmp_path / "a.parquet"))


def test_written_csv_reads_back_to_the_bit(tmp_path):
    data = load_data(pd.DataFrame({"a": X[:, 0] * 1e-7, "b": [3, -4] * 25, "c": ["u, v", 'w"'] * 25, "d": [None, 1.5] * 25}))
    write_csv(tmp_path / "out.csv", columns_of(data.x, data.space))
    again = load_rows(str(tmp_path / "out.csv"), data.space)[0]
    assert torch.equal(again.nan_to_num(-9), data.x.nan_to_num(-9))
    x = torch.from_numpy(X)
    write_csv(tmp_path / "out.csv", columns_of(x, Real((3,))))
    assert torch.equal(torch.from_numpy(np.stack(read_csv(tmp_path / "out.csv").columns, 1)), x)
    write_npy(tmp_path / "out.npy", X)
    assert np.array_equal(np.load(tmp_path / "out.npy"), X)


@pytest.mark.parametrize("cell", ["=1+2", "+cmd()", "-2+3", "@sum", "\t=1", "\r=1", "  =1", "=HYPERLINK(\"x\")", "-", "+1,2"])
def test_a_written_cell_runs_no_formula(cell, tmp_path):
    write_csv(tmp_path / "out.csv", {cell: ["ok", cell]})
    with (tmp_path / "out.csv").open(newline="") as file:
        header, _, row = csv.reader(file)
    assert header[0] == row[0] == "'" + cell.replace("\r", "\n")


@pytest.mark.parametrize("cell", ["-1.5", "+2", "1e-9", "u=1", "", "a@b", "-inf"])
def test_numbers_and_plain_texts_are_left_alone(cell):
    assert harmless(cell) == cell

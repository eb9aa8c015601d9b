"""Tables in files: what was written is what is read, to the bit, and nothing written can run."""

from __future__ import annotations

import csv
import io
import math
import random
import re
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from likeli.data import columns_of, load_data, load_rows, rebuild, write_csv, write_npy
from likeli.data.columns import harmless
from likeli.data.readers.tables import read_csv
from likeli.errors import InputError, MissingExtra
from likeli.spaces import Labels, Real
from likeli.spaces.table import MISSING_TEXT

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


CELLS = [
    ["1", "-2", "+3", "007", "18446744073709551616"], ["1", "2", "?", " NA "], ["1.0", "2", ""], ["1.5", "-2e3", " 6 ", "nan"],
    ["0.1", "0.30000000000000004", "12345678901234567890.123", "1e-400", "5."], ["a", " b ", "", "null"], ["True", "false"],
    ["x", "1", "y", "z"], ["v, w", 'say "x"', "two\nlines", "é"], [".5", "1E+5", "\u3000", "\xa05", "１２"], ["", "?"],
    ["9223372036854775808", "", "-1"], ["18446744073709551615", ""], ["2020-01-01", "#a", "1 2", "0x10", "1_0"], ["  ", "5"],
]  # fmt: skip


def plainly(text, delimiter):
    """What Python's own reader and `float` make of a table: [numbers or texts, whether whole] of each column, and the lines."""
    reader, rows, lines, line = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True), [], [], 1
    for row in reader:
        rows, lines = (rows + [row], lines + [line]) if row else (rows, lines)
        line = reader.line_num + 1
    columns = []
    for cells in zip(*rows[1:]):
        cells = [None if cell.strip() in MISSING_TEXT else cell.strip() for cell in cells]
        try:
            assert not any("_" in cell or re.fullmatch("0[0-9]+", cell) for cell in cells if cell)  # a code is no number
            numbers = [math.nan if cell is None else float(cell) for cell in cells]
            columns.append([numbers, all(cell is None or re.fullmatch("[+-]?[0-9]+", cell) for cell in cells)])
        except (ValueError, AssertionError):
            columns.append([cells, False])
    return columns, lines[1:]


@pytest.mark.parametrize("seed", range(60))
def test_every_cell_is_what_a_plain_reader_says(seed, tmp_path):
    """Types, values and lines, where pandas alone would differ: blank lines, padding, gaps, quotes, huge whole numbers."""
    rng = random.Random(seed)
    kinds, delimiter = rng.choices(CELLS, k=rng.choice([1, 2, 3, 5])), rng.choice(",\t")
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if rng.random() < 0.3 else csv.QUOTE_MINIMAL
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerow([f"c{i}" for i in range(len(kinds))])
    for _ in range(rng.choice([2, 5, 30])):
        writer.writerow([rng.choice(kind) for kind in kinds])
        file.write("\n" * (rng.random() < 0.05))
    text, path = file.getvalue().rstrip("\n"), tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv")
    path.write_text(text + "\n" * rng.choice([0, 1, 3]), encoding="utf-8", newline=rng.choice(["\n", "\r\n"]))
    columns, lines = plainly(text, delimiter)
    try:
        got = read_csv(path)
    except InputError as error:  # most cells are numbers, so that the texts among them are faults
        number, name = re.search(r"line (\d+), column c(\d+): expected a number", str(error)).groups()
        cells = columns[int(name)][0]
        assert isinstance(next(cell for cell in cells if cell), str)
        assert int(number) in lines
        return
    assert list(got.lines) == lines
    for have, whole, (cells, as_whole) in zip(got.columns, got.whole, columns):
        assert whole == as_whole
        if isinstance(have, np.ndarray):
            np.testing.assert_array_equal(have, cells)
        else:
            assert have == cells


@pytest.mark.slow
def test_a_csv_is_read_nearly_as_fast_as_pandas_reads_it(tmp_path):
    """100,000 rows of 5 reals, 3 whole numbers and 2 texts: at most 1.5 times the processor time of pandas' defaults."""
    n = 100_000
    reals, whole = RNG.normal(size=(n, 5)) * 10.0 ** np.arange(-2, 3), RNG.integers(-(10**4), 10**6, (n, 3))
    frame = pd.DataFrame({f"r{i}": x for i, x in enumerate(reals.T)} | {f"i{i}": x for i, x in enumerate(whole.T)})
    frame["t"], frame["u"] = RNG.choice(["red", "green", "blue"], n), RNG.choice([f"city {i}" for i in range(300)], n)
    frame.to_csv(tmp_path / "a.csv", index=False)
    seconds = {pd.read_csv: [], read_csv: []}
    for _ in range(8):
        for read, found in seconds.items():
            start = time.process_time()
            read(tmp_path / "a.csv")
            found.append(time.process_time() - start)
    assert np.median(seconds[read_csv][1:]) < 1.5 * np.median(seconds[pd.read_csv][1:])


def test_marks_of_the_byte_order_are_no_cells(tmp_path):
    """Also where files that began with one were put together."""
    got = read_csv(table(tmp_path, "\ufeffa,b\n\ufeff1,2.5\n\ufeff3,u\n4,v\n5,\ufeff\n"))
    assert (got.names, got.whole, list(got.lines)) == (["a", "b"], [True, False], [2, 3, 4, 5])
    assert got.columns[0].tolist() == [1, 3, 4, 5]
    assert got.columns[1] == ["2.5", "u", "v", None]
    with pytest.raises(InputError, match="a header only"):
        read_csv(table(tmp_path, "a\n\ufeff"))


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
    with pytest.raises(InputError, match=r"fractions: expected three numbers \(train, valid, test\), got None"):
        rebuild({name: value for name, value in data.describe().items() if name != "fractions"})


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


@pytest.mark.parametrize("codes", [300, 1500])
def test_leading_zeros_are_names_and_are_never_lost_unasked(codes, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("v,zip\n" + "".join(f"{i % 7 / 3},{i % codes:05d}\n" for i in range(3000)))
    if codes <= 1000:
        assert load_data(path).space.decode(load_data(path).x)["zip"][1] == "00001"
        return
    with pytest.raises(InputError, match=r"column zip: .*1,500 different texts.*'integer' takes it without the zeros"):
        load_data(path)
    data = load_data(path, types={"zip": "integer"})
    assert data.space.columns[1].type == "integer"
    assert data.x[1, 1] == 1
    assert torch.equal(load_rows(path, data.space)[0], data.x)

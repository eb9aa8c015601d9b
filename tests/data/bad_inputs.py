"""Data that strangers bring: what must be refused in one line, and what must be taken (perhaps with a warning).

`REFUSED`: (name, maker(tmp_path) -> source, or (source, arguments of load_data), regex of the message).
`TAKEN`: (name, maker(tmp_path) -> the same, regex that one of the warnings matches, or "" for none expected).
A maker returns a path (as text) wherever the command line can be given the same thing, an array otherwise.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

RNG = np.random.default_rng(0)
GOOD = RNG.normal(size=(60, 4))
CANARY = "likeli_canary_fired"


class Canary:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (CANARY,)


def npy(array):
    def make(tmp):
        np.save(tmp / "a.npy", array)
        return str(tmp / "a.npy")

    return make


def changed(value, row=17, column=2):
    x = GOOD.copy()
    x[row, column] = value
    return npy(x)


def csv(text, name="a.csv", encoding="utf-8"):
    def make(tmp):
        (tmp / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return str(tmp / name)

    return make


def rows(*, header="a,b,c,d", bad=None, line=62, total=80):
    """A table of `total` lines with `bad` in place of line `line` (counted from 1, the header)."""
    lines = [header] + [f"{i}.25,{i * 3 % 11}.5,{i % 7}.5,0.{i}1" for i in range(total)]
    if bad is not None:
        lines[line - 1] = bad
    return "\n".join(lines) + "\n"


def header_of(shape, dtype="<f8", version=1):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text


def raw(name, content):
    def make(tmp):
        (tmp / name).write_bytes(content)
        return str(tmp / name)

    return make


def truncated_npy(tmp):
    path = npy(GOOD)(tmp)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-100])
    return path


def padded_npy(tmp):
    path = npy(GOOD)(tmp)
    with open(path, "ab") as file:
        file.write(b"more")
    return path


def pickled_npy(tmp):
    np.save(tmp / "a.npy", np.array([Canary()] * 3, dtype=object), allow_pickle=True)
    return str(tmp / "a.npy")


def bare_pickle(tmp):
    (tmp / "a.npy").write_bytes(pickle.dumps(Canary()))
    return str(tmp / "a.npy")


def npz(**arrays):
    def make(tmp):
        np.savez(tmp / "a.npz", **arrays)
        return str(tmp / "a.npz")

    return make


def bomb_npz(tmp):
    with zipfile.ZipFile(tmp / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z, z.open("x.npy", "w") as member:
        member.write(header_of((400, 2**20), "|u1"))
        for _ in range(400):
            member.write(bytes(2**20))
    return str(tmp / "a.npz")


def traversal_npz(tmp):
    content = io.BytesIO()
    np.save(content, GOOD)
    with zipfile.ZipFile(tmp / "a.npz", "w") as z:
        z.writestr("../../evil.npy", content.getvalue())
    return str(tmp / "a.npz")


def truncated_npz(tmp):
    path = npz(x=GOOD)(tmp)
    Path(path).write_bytes(Path(path).read_bytes()[:-60])
    return path


def corrupt_npz(tmp):
    path = npz(x=GOOD)(tmp)
    content = bytearray(Path(path).read_bytes())
    content[600] ^= 0xFF
    Path(path).write_bytes(content)
    return path


def pickled_npz(tmp):
    np.savez(tmp / "a.npz", x=np.array([Canary()], dtype=object))
    return str(tmp / "a.npz")


def folder(tmp):
    (tmp / "empty").mkdir()
    return str(tmp / "empty")


def link_loop(tmp):
    (tmp / "a.csv").symlink_to(tmp / "b.csv")
    (tmp / "b.csv").symlink_to(tmp / "a.csv")
    return str(tmp / "a.csv")


def link_to(target, name):
    def make(tmp):
        (tmp / name).symlink_to(target)
        return str(tmp / name)

    return make


def pipe(tmp):
    os.mkfifo(tmp / "a.csv")
    return str(tmp / "a.csv")


def dir_named(name):
    def make(tmp):
        (tmp / name).mkdir()
        return str(tmp / name)

    return make


def sparse_file(tmp):
    with open(tmp / "a.npy", "wb") as file:
        file.write(header_of((2**40,), "|u1"))
        file.truncate(2**40 + 128)
    return str(tmp / "a.npy")


def png(width, height, body=None, colour=0):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = zlib.compress(bytes((width + 1) * height)) if body is None else body
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def pictures(**files):
    """A folder with one good 28 × 28 picture and the given ones."""

    def make(tmp):
        (tmp / "pictures").mkdir()
        for i in range(3):
            noise = zlib.compress(b"".join(b"\0" + bytes(RNG.integers(0, 256, 28, dtype=np.uint8)) for _ in range(28)))
            (tmp / "pictures" / f"good{i}.png").write_bytes(png(28, 28, noise))
        for name, content in files.items():
            (tmp / "pictures" / name.replace("_", ".")).write_bytes(content)
        return str(tmp / "pictures")

    return make


def both_levels(tmp):
    path = Path(pictures()(tmp))
    (path / "sub").mkdir()
    (path / "sub" / "a.png").write_bytes(png(28, 28))
    return str(path)


def with_(maker, **arguments):
    """The same source under these arguments of load_data."""
    return lambda tmp: (maker(tmp) if callable(maker) else maker, arguments)


def labelled(y):
    return lambda tmp: (GOOD, {"labels": y})


SHAPES = [
    ("zero rows", npy(np.zeros((0, 4))), "0 rows; need at least 2"),
    ("zero columns", npy(np.zeros((60, 0))), r"at least one column, got shape \(60, 0\)"),
    ("scalar", npy(np.float64(3.0)), r"\(rows, columns\).*got shape \(\)"),
    ("one axis", npy(np.zeros(60)), r"expected shape \(rows, columns\), got shape \(60,\)"),
    ("five axes", npy(np.zeros((2, 2, 2, 2, 2))), r"got shape \(2, 2, 2, 2, 2\)"),
    ("one row", npy(GOOD[:1]), "1 row; need at least 2"),
    ("one row of a table", csv("a,b\n1,x\n"), "1 row; need at least 2"),
    ("ragged list", lambda tmp: [[1.0, 2.0], [3.0]], "rows of one length"),
]
VALUES = [
    ("+inf", changed(np.inf), "finite numbers, got inf at row 17, column 2"),
    ("-inf", changed(-np.inf), "finite numbers, got -inf at row 17, column 2"),
    ("all missing", npy(np.full((60, 4), np.nan)), "missing cells only"),
    ("a missing column", npy(np.where(np.arange(4) == 1, np.nan, GOOD)), "column x1: .*missing cells only"),
    ("1e300", changed(1e300), r"row 17, column 2: 1e\+300 does not fit float32"),
    ("all constant", npy(np.ones((60, 4)) * 0.1), "no variance"),
    ("all constant pixels", npy(np.zeros((9, 8, 8), np.uint8)), "no variance"),
    ("all constant table", csv("a,b\n" + "1,x\n" * 9), "no variance"),
]
DTYPES = [
    ("complex", npy(GOOD + 1j), "expected an array of numbers, got.*complex"),
    ("complex in memory", lambda tmp: GOOD + 1j, "expected real numbers, got complex"),
    ("strings", npy(np.array([["a", "b"]] * 9)), "expected real numbers, got text"),
    ("datetime", npy(np.zeros((9, 2), "M8[D]")), "an array of datetime64"),
    ("datetime in memory", lambda tmp: np.zeros((9, 2), "M8[D]"), "got dates"),
    ("structured", npy(np.zeros(9, dtype=[("a", "f8"), ("b", "i4")])), "expected an array of numbers"),
    ("objects that hold a pickle", pickled_npy, "pickled objects, never loaded"),
    ("a pickle called npy", bare_pickle, r"expected a \.npy array, got other bytes"),
    ("object array in memory", lambda tmp: np.array([[1, "a"]], dtype=object), "an object array"),
    ("generator", lambda tmp: (row for row in GOOD), "got a generator; collect it first"),
    ("nothing", lambda tmp: None, "expected an array, got nothing"),
    ("frame of dates", lambda tmp: pd.DataFrame({"d": pd.to_datetime(["2020-01-01"] * 3)}), "column d.*dates"),
    ("frame of lists", lambda tmp: pd.DataFrame({"d": [[1], [2]]}), "column d: expected numbers or texts, got list"),
]
FILES = [
    ("truncated npy", truncated_npy, r"is truncated: its header declares 1,920 bytes of \(60, 4\), it holds 1,820"),
    ("npy with bytes left over", padded_npy, "bytes left over"),
    ("garbage npy", raw("a.npy", bytes(range(256)) * 8), r"expected a \.npy array"),
    ("npy header of garbage", raw("a.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr" * 20), "header cannot be read"),
    ("npy of a later version", raw("a.npy", header_of((3,), version=9) + bytes(24)), r"expected a \.npy array"),
    ("npy header cut", raw("a.npy", header_of((3,))[:40]), "truncated"),
    ("npy header of 16 MB", raw("a.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**24) + b" " * 99), "at most 100,000"),
    ("npy header of 16 TiB", raw("a.npy", header_of((2**41,)) + bytes(64)), "truncated: its header declares 17,592,"),
    ("npy header of negative shape", raw("a.npy", header_of((-3, 4)) + bytes(64)), "a shape"),
    ("npy, sparse 1 TiB", sparse_file, "at most [0-9,]+ bytes"),
    ("npz bomb of 400 MB", bomb_npz, "would unpack to 419,4"),
    ("npz of two arrays", npz(a=GOOD, b=GOOD), r"which of a, b\? write a\.npz:a"),
    ("npz key unknown", lambda tmp: npz(alpha=GOOD)(tmp) + ":alhpa", "no array 'alhpa'; it holds alpha; did you mean alpha"),
    ("npz with traversal names", traversal_npz, r"members that are plain \.npy names, got '\.\./\.\./evil\.npy'"),
    ("npz truncated", truncated_npz, r"expected a \.npz file, got something damaged"),
    ("npz with a flipped byte", corrupt_npz, "is damaged: Bad CRC"),
    ("npz of pickles", pickled_npz, "pickled objects, never loaded"),
    ("npz that is no zip", raw("a.npz", b"PK\x03\x04 nothing"), r"expected a \.npz file"),
    ("folder without pictures", folder, "a folder without any"),
    ("folder called csv", dir_named("a.csv"), "a folder without any"),
    ("missing", lambda tmp: str(tmp / "none.csv"), "neither a built-in source.*nor a file or folder"),
    ("misspelt", lambda tmp: "digts", "did you mean digits"),
    ("empty name", lambda tmp: "", "a name or a path"),
    ("NUL in the name", lambda tmp: "a\0b.csv", "a name or a path"),
    ("link loop", link_loop, "cannot be read: Too many levels of symbolic links"),
    ("dangling link", link_to("/nonexistent", "a.csv"), "cannot be read: No such file"),
    ("/dev/zero", link_to("/dev/zero", "a.csv"), "a regular file, got a device or pipe"),
    ("/dev/zero as npy", link_to("/dev/zero", "a.npy"), "a regular file, got a device or pipe"),
    ("/dev/zero itself", lambda tmp: "/dev/zero", r"ending in \.npy"),
    ("pipe", pipe, "a regular file, got a device or pipe"),
    ("/proc file", link_to("/proc/self/status", "a.csv"), "an empty file"),
    ("unknown suffix", raw("a.docx", b"PK"), r"ending in \.npy.*got '\.docx'"),
    ("parquet of garbage", raw("a.parquet", b"PAR1 nothing PAR1"), "cannot be read as parquet"),
    ("png truncated", pictures(bad_png=png(28, 28, zlib.compress(bytes(29 * 28))[:8])), r"bad\.png: the picture is damaged"),
    ("png of 50,000 pixels a side", pictures(bad_png=png(50_000, 50_000, b"")), r"bad\.png: .* 16,777,216 pixels"),
    ("png of zero size", pictures(bad_png=png(0, 28)), r"bad\.png: .*(pixels|damaged)"),
    ("svg in disguise", pictures(bad_png=b"<svg xmlns='http://www.w3.org/2000/svg'/>"), r"bad\.png: is not a picture"),
    ("png of 31 x 17", pictures(z_png=png(31, 17)), r"z\.png: expected 28 x 28 pixels as good0\.png, got 31 x 17"),
    ("pictures on two levels", both_levels, "either in subfolders or beside each other"),
]
CSV = [
    ("empty csv", csv(""), "an empty file"),
    ("blank lines only", csv("\n\n\n"), "a header line, got no lines"),
    ("header only", csv("a,b,c\n"), "rows of data, got a header only"),
    ("ragged, short", csv(rows(bad="1,2,3")), "line 62 has 3 fields, expected 4"),
    ("ragged, long", csv(rows(bad="1,2,3,4,5")), "line 62 has 5 fields, expected 4"),
    ("semicolons", csv(rows().replace(",", ";")), "separated by commas, got semicolons; save it with commas"),
    ("tabs in csv", csv(rows().replace(",", "\t")), r"got tabs; name it \.tsv"),
    ("decimal comma", csv('a,b\n"1,5",2.5\n"2,5",3.5\n'), "line 2, column a: expected a number, got '1,5'; .*decimal point"),
    ("thousands", csv("a,b\n" + "3,2.5\n" * 9 + '"1,234",2.5\n'), "line 11, column a: expected a number, got '1,234'"),
    ("inf", csv(rows(bad="1,inf,3,4")), "line 62, column b is inf"),
    ("1e999", csv(rows(bad="1,1e999,3,4")), "line 62, column b is inf or overflows"),
    ("1e300 in csv", csv(rows(bad="1,1e300,3,4")), "line 62, column b: 1e\\+300 does not fit float32"),
    ("one text among numbers", csv(rows(bad="1,abc,3,4")), "line 62, column b: expected a number, got 'abc'"),
    ("underscored number", csv(rows(bad="1,1_000,3,4")), "line 62, column b: expected a number, got '1_000'"),
    ("formula among numbers", csv(rows(bad="1,=1+2,3,4")), "line 62, column b: expected a number, got '=1\\+2'"),
    ("NUL", csv(rows(bad="1,2\0,3,4")), "line 62 holds a NUL character"),
    ("Latin-1", csv("name,b\nx,1\ncafé,2\n", encoding="latin-1"), r"line 3 is not UTF-8 \(byte 0xe9\)"),
    ("UTF-16", csv(rows(), encoding="utf-16"), "got UTF-16"),
    ("100,000 columns", csv(",".join(f"c{i}" for i in range(100_000)) + "\n"), "at most 50,000 columns, got 100,000"),
    ("a cell of 5 MB", csv("a,b\n1,2\n3," + "x" * 5_000_000 + "\n"), r"line 3: field larger than field limit"),
    ("open quote", csv('a,b\n1,2\n3,"4\n'), "line 3: unexpected end of data"),
    ("quote inside", csv('a,b\n1,2\n3,"4"5\n'), "line 3: ',' expected"),
    ("column of identifiers", csv("id\n" + "".join(f"n{i}\n" for i in range(1200))), "column id: .*1200; drop the column"),
    ("column without values", csv("a,b\n,1.5\nNA,2.5\n?,3.5\n"), "column a: .*missing cells only"),
    ("text column as reals", with_(csv("a,b\nx,1.5\ny,2.5\n"), kind="real"), "line 2, column a: expected a number, got 'x'"),
]
LABELS = [
    ("59 labels for 60 rows", labelled(np.zeros(59, int)), "60 labels, one a row, got 59"),
    ("negative label", labelled(np.r_[-1, np.zeros(59, int)]), "whole numbers from 0.*got -1 at row 0"),
    ("fractional label", labelled(np.r_[np.zeros(59), 0.5]), "got 0.5 at row 59"),
    ("missing label", labelled(np.r_[np.zeros(59), np.nan]), "got none at row 59"),
    ("label 10^9", labelled(np.r_[np.zeros(59, int), 10**9]), r"got 1e\+09 at row 59"),
    ("two-axis labels", labelled(np.zeros((60, 2), int)), r"one label a row.*shape \(60, 2\)"),
    ("missing label in csv", with_(csv("a,y\n" + "1.5,u\n2.5,v\n3.5,\n"), labels="y"), "none at line 4"),
    ("label column unknown", with_(csv("a,colour\n1,x\n2,y\n"), labels="color"), "no column 'color'.*did you mean colour"),
    ("labels of digits by name", with_("digits", labels="target"), "labels: expected"),
    ("factor unknown", with_("scenes:n=10", labels="shpe"), "did you mean shape"),
    ("file of labels that is missing", with_(npy(GOOD), labels="nowhere.npy"), "labels: expected"),
    ("fractions as pixels", with_(npy(GOOD), kind="pixels"), "whole numbers from 0 to 255"),
    ("300 of 256", with_(npy(300 * np.arange(36).reshape(9, 2, 2)), kind="pixels"), "0 to 255, got 300 at row 0, column 0, 1"),
    ("beyond the levels", with_(npy(np.arange(18).reshape(9, 2)), kind="pixels:17"), "0 to 16, got 17 at row 8, column 1"),
    ("negative counts", with_(npy(np.arange(18).reshape(9, 2) - 9), kind="counts"), "whole numbers from 0, got -9"),
    ("negative tokens", with_(npy(np.arange(18).reshape(9, 2) - 9), kind="tokens"), "symbols from 0 to 8, got -9"),
    ("missing pixels", with_(changed(np.nan), kind="pixels"), "whole numbers"),
    ("2 for a binary space", with_(npy(np.arange(18).reshape(9, 2) % 3), kind="binary"), "0 to 1, got 2 at row"),
]
ARGUMENTS = [
    ("unknown kind", with_(npy(GOOD), kind="reel"), "kind: expected one of real"),
    ("size of a kind without one", with_(npy(GOOD), kind="real:3"), "pixels:LEVELS"),
    ("unknown option", lambda tmp: "ring8:dims=3", "ring8: unknown option 'dims'; it has n"),
    ("option that is no number", lambda tmp: "gaussian:dims=two", "gaussian: dims: expected a whole number"),
    ("option of zero", lambda tmp: "gaussian:n=0", "gaussian: n: expected a whole number from 1"),
    ("far too many rows", lambda tmp: "gaussian:n=10000000,dims=1000", "at most 268,435,456 cells"),
    ("one drawn row", lambda tmp: "gaussian:n=1", "1 row; need at least 2"),
    ("fractions beyond one", with_("digits", fractions=(0.8, 0.3, 0.1)), "fractions: expected three parts of 1"),
    ("no training rows", with_("digits", fractions=(0.0, 0.5, 0.5)), "fractions"),
    ("two fractions", with_("digits", fractions=(0.5, 0.5)), "fractions: expected three numbers"),
    ("seed below zero", with_("digits", seed=-1), "seed"),
    ("seed of 2^70", with_("digits", seed=2**70), "seed"),
    ("text too short", csv("abc", name="a.txt"), "at least 2 windows of length=64 characters, got 3 characters"),
    ("text of one character", csv("a" * 200, name="a.txt"), "at least two different characters"),
    ("text length zero", lambda tmp: csv("ab" * 200, name="a.txt")(tmp) + ":length=0", "length: expected"),
    ("option of a csv", lambda tmp: csv(rows())(tmp) + ":length=3", "no such option, got length"),
    ("binary called txt", raw("a.txt", b"ab\ncd\0" * 99), "line 2 holds a NUL"),
]
REFUSED = SHAPES + VALUES + DTYPES + FILES + CSV + LABELS + ARGUMENTS

TAKEN = [
    ("two rows", npy(GOOD[:2]), "only 2 rows"),
    ("one column", npy(GOOD[:, :1]), ""),
    ("one missing cell", changed(np.nan), r"column x2: missing in some rows \(1 cells\)|kept as missing"),
    ("3e37 float32", npy((GOOD * 3e37).astype(np.float32)), "of a scale far from 1"),
    ("1e-310", npy(np.where(np.arange(4) == 1, 1e-310, 1) * np.abs(GOOD)), "column x1: holding numbers below 1e-300"),
    ("scale 1e-20", npy(GOOD * 1e-20), "of a scale far from 1"),
    ("offset 1e8", npy(GOOD + 1e8), ""),
    ("mixed scales", npy(GOOD * 10.0 ** np.array([-8, -3, 3, 8])), ""),
    ("constant column", npy(np.where(np.arange(4) == 1, 7.0, GOOD)), "column x1: constant"),
    ("duplicate rows", npy(np.repeat(GOOD[:30], 2, 0)), ""),
    ("collinear", npy(GOOD[:, [0, 0, 1, 1]]), ""),
    ("fewer rows than columns", npy(RNG.normal(size=(20, 50))), "16 training rows for 50 columns"),
    ("int64", npy(np.arange(240).reshape(60, 4)), "taken as counts"),
    ("negative int", npy(np.arange(240).reshape(60, 4) - 99), "taken as integer columns"),
    ("uint8", npy(np.arange(240, dtype=np.uint8).reshape(60, 4)), "taken as counts"),
    ("bool", npy(GOOD > 0), ""),
    ("float16", npy(GOOD.astype(np.float16)), ""),
    ("big-endian", npy(GOOD.astype(">f8")), ""),
    ("Fortran", npy(np.asfortranarray(GOOD)), ""),
    ("longdouble", npy(GOOD.astype(np.longdouble)), ""),
    ("BOM and CRLF", csv("\ufeff" + rows().replace("\n", "\r\n")), ""),
    ("missing cells", csv("a,b,c\n" + "1.5,x,1\n,y,2\nNA,?,3\nnan,y,null\n2.5,x,4\n" * 20), "a, b, c: missing in some rows"),
    ("text column", csv("a,b\n" + "1.5,x\n2.5,y\n" * 20), ""),
    ("text column of formulas", csv("a,b\n" + "1.5,=cmd()\n2.5,@sum\n" * 20), ""),
    ("duplicate header", csv(rows(header="a,b,a,c")), "duplicate header a"),
    ("no header", csv("1.5,2.5\n3.5,4.5\n" * 20), "first line holds numbers only"),
    ("nameless column", csv(rows(header=",b,c,d")), "column 1 has no name"),
    ("quoted cells", csv('"a","b"\n' + '"1.5","x, ""y"""\n2.5,"two\nlines"\n' * 20), ""),
    ("one class", labelled(np.zeros(60, int)), "all rows have one label"),
    ("masked array", lambda tmp: np.ma.masked_array(GOOD, mask=GOOD > 2), "kept as missing"),
    ("pandas with NA", lambda tmp: pd.DataFrame({"a": pd.array([1, None] * 9, "Int64"), "b": GOOD[:18, 0]}), "kept as missing"),
    ("requires_grad", lambda tmp: torch.tensor(GOOD, requires_grad=True), ""),
    ("negative strides", lambda tmp: GOOD[::-1, ::-1], ""),
    ("read-only memmap", lambda tmp: np.load(npy(GOOD)(tmp), mmap_mode="r"), ""),
    ("npz of one array", npz(a=GOOD), ""),
    ("npz of x and y", npz(X=GOOD, y=np.arange(60) % 3), ""),
    ("npz by key", lambda tmp: npz(a=GOOD, b=GOOD)(tmp) + ":b", ""),
    ("folder of pictures", pictures(), "only 3 rows"),
]


def sparse_matrix(tmp):
    import scipy.sparse

    return scipy.sparse.random(60, 4, 0.5, random_state=0, format="csr")


TAKEN.append(("scipy.sparse", sparse_matrix, ""))
assert not math.isnan(GOOD.sum())

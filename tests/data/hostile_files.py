"""Makers of files and arrays, good and hostile: each takes a folder and returns what to load."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

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

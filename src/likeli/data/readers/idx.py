"""The IDX files that MNIST and its kin come in, packed or not: images, their labels, the test part beside the training part."""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from likeli.data.readers.npy import memory_limit, open_regular
from likeli.errors import InputError, require

NAME = re.compile(r"[-._]idx(?P<axes>\d)", re.IGNORECASE)
TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def is_idx(path: str | Path) -> bool:
    """Whether a file is called as IDX files are: `train-images-idx3-ubyte`, with `.gz` or without."""
    return bool(NAME.search(Path(path).name))


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file: two zeros, a type, a number of axes, their lengths, the values, most significant byte first.

    Raises:
        InputError: other bytes, a packed file that is damaged, fewer or more values than the header says.
    """
    with open_regular(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            return _read(gzip.GzipFile(fileobj=file) if packed else file, str(path))
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: is damaged: {str(error)[:100]}") from error


def _read(file: io.BufferedIOBase, what: str) -> np.ndarray:
    start = file.read(4)
    known = len(start) == 4 and start[:2] == b"\0\0" and start[2] in TYPES and 1 <= start[3] <= 4
    require(known, what, "an IDX file", f"one that begins with {start.hex(' ') or 'nothing'}")
    header = file.read(4 * start[3])
    require(len(header) == 4 * start[3], what, "a whole header", "a truncated one")
    shape, dtype = tuple(np.frombuffer(header, ">u4").tolist()), np.dtype(TYPES[start[2]])
    declared = math.prod(shape) * dtype.itemsize
    require(declared <= memory_limit(), what, f"at most {memory_limit():,} bytes (half of memory)", f"{declared:,} bytes")
    content = file.read(declared)  # never more than was declared, however much is packed
    if len(content) < declared or file.read(1):
        relation = "is truncated" if len(content) < declared else "has bytes left over"
        raise InputError(f"{what}: {relation}: its header declares {declared:,} bytes of {shape}")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def training_images(folder: Path) -> list[Path]:
    """The IDX files of training images in a folder, one of each set."""
    files = [p for p in sorted(folder.iterdir()) if is_idx(p) and "images" in p.name and "train" in p.name]
    return list({p.name.removesuffix(".gz"): p for p in files}.values())


def idx_parts(path: Path) -> Iterator[tuple[str, Path, Path | None]]:
    """(part, images, labels if they are there) of a file of images, and of the test part if it lies beside it."""
    test = (beside(path, "train", "t10k") or beside(path, "train", "test")) if "train" in path.name else None
    for part, images in (("train", path), *([("test", test)] if test else [])):
        yield part, images, beside(images, "images", "labels") if "images" in images.name else None


def beside(path: Path, old: str, new: str) -> Path | None:
    """The file of the same set with another word in its name, packed or not."""
    axes = "1" if new == "labels" else NAME.findall(path.name)[0]
    name = NAME.sub(lambda m: m.group()[:-1] + axes, path.name.replace(old, new)).removesuffix(".gz")
    return next((p for p in (path.with_name(name), path.with_name(f"{name}.gz")) if p.is_file()), None)

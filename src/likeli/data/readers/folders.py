"""The pictures of a folder by their names alone; subfolders are classes, or the parts of a split with classes in them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likeli.errors import InputError, require

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"})
PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


@dataclass(frozen=True)
class Listing:
    """Where the pictures of a folder are, in a few dozen bytes each.

    Arguments:
        root: the folder.
        names: paths below it, one after the other.
        ends: where each of them ends.
        order: which of them is row i; row i itself if not given.
        classes: sorted names.
        codes: the class of each row; None without classes.
        sizes: rows of the folder's own parts, in the order in which they lie; empty without.
    """

    root: str
    names: bytes
    ends: np.ndarray
    order: np.ndarray | None
    classes: list[str]
    codes: np.ndarray | None
    sizes: dict[str, int]

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, row: int) -> str:
        """The path of a row's picture below the folder."""
        at = int(row if self.order is None else self.order[row])
        return os.fsdecode(self.names[int(self.ends[at - 1]) if at else 0 : int(self.ends[at])])

    def path(self, row: int) -> Path:
        """The path of a row's picture."""
        return Path(self.root, self.name(row))

    def labels(self, rows: np.ndarray) -> list[str] | None:
        """The classes of rows by name."""
        return None if self.codes is None else [self.classes[code] for code in self.codes[rows].tolist()]


def find_pictures(folder: str | Path) -> Listing:
    """The pictures of a folder and all below it, by sorted names.

    Raises:
        InputError: none, or some beside subfolders with others.
    """
    names, ends, above = bytearray(), array("q"), (array("i"), array("i"))
    codes: tuple[dict[str, int], dict[str, int]] = {}, {}  # of the first and of the second folder of a path
    for path in _walk(os.fspath(folder)):
        names += os.fsencode(path)
        ends.append(len(names))
        first, *rest = path.split("/")[:-1][:2] or [""]
        for known, of, name in zip(codes, above, (first, *rest, "")):
            of.append(known.setdefault(name, len(known)))
    require(len(ends) > 0, str(folder), f".parquet files or pictures ({', '.join(sorted(SUFFIXES))})", "neither")
    tops, seconds = (np.frombuffer(of, np.int32) for of in above)
    order, sizes, known = None, dict[str, int](), codes[0]
    if known.keys() <= PARTS.keys() and "train" in known:
        listed = ["train", "valid", "test"]
        rank = np.array([listed.index(PARTS[name]) for name in known])[tops]
        sizes = {part: n for part, n in zip(listed, np.bincount(rank, minlength=3).tolist()) if n}
        order = np.argsort(rank, kind="stable")
        tops, known = seconds[order], codes[1]
    require(len(known) == 1 or "" not in known, str(folder), "pictures either in subfolders or beside each other", "both")
    classes = sorted(known)
    place = np.array([classes.index(name) for name in known], np.int32)
    has = classes != [""]
    found = bytes(names), np.frombuffer(ends, np.int64)
    return Listing(os.fspath(folder), *found, order, classes if has else [], place[tops] if has else None, sizes)


def _walk(root: str) -> Iterator[str]:
    """Paths below the folder, in the order of their parts; what begins with a dot is passed over, links to folders too."""
    ahead = [("", True)]
    while ahead:
        path, is_folder = ahead.pop()
        if path and os.path.splitext(path)[1].lower() in SUFFIXES:
            yield path
        if is_folder:
            ahead += reversed(_children(root, path))


def _children(root: str, path: str) -> list[tuple[str, bool]]:
    """The pictures and folders in a folder, by sorted names."""
    try:
        with os.scandir(os.path.join(root, path)) as entries:
            shown = ((e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.name.startswith("."))
            found = sorted(pair for pair in shown if pair[1] or os.path.splitext(pair[0])[1].lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"{os.path.join(root, path)}: cannot be read: {error.strerror or error}") from error
    return [(f"{path}/{name}" if path else name, is_folder) for name, is_folder in found]

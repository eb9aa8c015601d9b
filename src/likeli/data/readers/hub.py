"""Data sets of the Hugging Face hub, through its `datasets` library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from likeli.data.builtin.sources import Raw
from likeli.data.frame import Frame
from likeli.data.readers.npy import memory_limit
from likeli.data.readers.shards import RowGroup, digest_of_files, mark, refuse_changed
from likeli.data.readers.tables import from_pandas
from likeli.errors import InputError, MissingExtra, nearest, require
from likeli.spaces import Labels

OPTIONS = ("split", "config", "revision")
CELLS_OF_A_HUB_BLOCK = 1 << 16


def read_hub(name: str, given: dict[str, str]) -> Raw:
    """`hf:NAME`, with options split (default train), config and revision: a table, or its one column of pictures.

    Code that a data set brings is never run.

    Raises:
        MissingExtra: datasets is not installed.
        InputError: unknown, not reachable, or a form that is neither a table nor pictures.
    """
    return from_dataset(open_hub(name, given), f"hf:{name}")


def open_hub(name: str, given: dict[str, str]) -> Any:
    """The data set `hf:NAME`, or the one that `datasets` has saved in the folder NAME; see `read_hub`."""
    for key in given:
        if key not in OPTIONS:
            raise InputError(f"hf:{name}: unknown option {key!r}; it has {', '.join(OPTIONS)}{nearest(key, OPTIONS)}")
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data", "reading hf: data") from error
    split = given.get("split", "train")
    try:
        if Path(name, "state.json").is_file():
            return datasets.load_from_disk(name)
        if Path(name, "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)[split]
        return datasets.load_dataset(name, given.get("config"), split=split, revision=given.get("revision"))
    except Exception as error:  # the library raises many kinds, of its own and of the network
        raise InputError(f"hf:{name}: cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def from_dataset(loaded: Any, name: str) -> Raw:
    """A `datasets.Dataset` as rows; a column of pictures is taken with a class column as labels."""
    column, classes = _columns(loaded, name)
    if column is None:
        return Raw(name, from_pandas(loaded.to_pandas(), name))
    x = torch.from_numpy(_stack(loaded, column, name))
    x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x
    if classes is None:
        return Raw(name, x)
    names = tuple(map(str, loaded.features[classes].names))
    return Raw(name, x, np.asarray(loaded[classes]), condition=Labels(len(names), names))


def _columns(loaded: Any, name: str) -> tuple[str | None, str | None]:
    """The columns of pictures and of classes, where there is one."""
    of = {kind: [k for k, v in loaded.features.items() if type(v).__name__ == kind] for kind in ("Image", "ClassLabel")}
    require(len(of["Image"]) < 2, name, "one column of pictures", ", ".join(of["Image"]))
    return of["Image"][0] if of["Image"] else None, of["ClassLabel"][0] if len(of["ClassLabel"]) == 1 else None


def _stack(loaded: Any, column: str, name: str) -> np.ndarray:
    first = np.asarray(loaded[0][column])
    require(first.dtype == np.uint8, name, "pictures of 8 bits a channel", str(first.dtype))
    require(first.nbytes * len(loaded) <= memory_limit(), name, "pictures that fit into memory", f"{len(loaded):,} pictures")
    out = np.empty((len(loaded), *first.shape), np.uint8)
    for i, row in enumerate(loaded):
        picture = np.asarray(row[column])
        require(picture.shape == first.shape, f"{name}: row {i}", f"a picture of shape {first.shape}", picture.shape)
        out[i] = picture
    return out


def hub_files(loaded: Any, name: str) -> HubPictures | HubTable | None:
    """The rows of a data set that lies on disk, for reading them there; None for one that is in memory."""
    paths = [Path(file["filename"]) for file in getattr(loaded, "cache_files", [])]
    if not paths or not len(loaded):
        return None
    column, classes = _columns(loaded, name)
    marks = {path: mark(path) for path in paths}
    if column is None:
        return HubTable(loaded, name, list(map(str, loaded.column_names)), marks)
    codes = None if classes is None else np.asarray(loaded[classes])
    return HubPictures(loaded, name, column, [] if classes is None else list(map(str, loaded.features[classes].names)), codes)


@dataclass(frozen=True)
class HubTable:
    """A table of the hub, memory-mapped.

    Arguments:
        loaded: the `datasets.Dataset`.
        name: for messages.
        names: of the columns.
        marks: size in bytes and time of the last change (ns) of each file.
    """

    loaded: Any
    name: str
    names: list[str]
    marks: dict[Path, tuple[int, int]]

    @property
    def files(self) -> int:
        """How many there are."""
        return len(self.marks)

    def __len__(self) -> int:
        return len(self.loaded)

    @property
    def blocks(self) -> Sequence[RowGroup]:
        """Rows that lie together, few enough that many of them make up a window."""
        each = max(CELLS_OF_A_HUB_BLOCK // len(self.names), 1)
        starts = range(0, len(self), each)
        return [RowGroup(f"{self.name}, rows from {a}", a, min(each, len(self) - a)) for a in starts]

    def read(self, block: RowGroup) -> Iterator[Frame]:
        """The rows of a block.

        Raises:
            InputError: a file is not what it was.
        """
        for path in self.marks:
            refuse_changed(self.marks, path)
        yield from_pandas(self.loaded.select(range(block.first, block.first + block.rows)).to_pandas(), block.what)

    def digest(self) -> str:
        """sha256 of all files, one after the other."""
        return digest_of_files(self.marks)


@dataclass(frozen=True)
class HubPictures:
    """Pictures of the hub, memory-mapped and decoded one at a time.

    Arguments:
        loaded: the `datasets.Dataset`.
        name: for messages.
        column: of the pictures.
        classes: their names; none without classes.
        codes: the class of each row, if there are classes.
    """

    loaded: Any
    name: str
    column: str
    classes: list[str]
    codes: np.ndarray | None
    folds: ClassVar[bool] = False
    sizes: ClassVar[dict[str, int]] = {}
    captions: ClassVar[None] = None

    def __len__(self) -> int:
        return len(self.loaded)

    @property
    def what(self) -> str:
        """How all of them are named in messages."""
        return self.name

    def where(self, row: int) -> str:
        """How a row is named in messages."""
        return f"{self.name}: row {row}"

    def labels(self, rows: np.ndarray) -> np.ndarray | None:
        """The classes of rows."""
        return None if self.codes is None else self.codes[rows]

    def look(self, row: int) -> tuple[tuple[int, ...], bool]:
        """(the shape of a row, whether it is transparent: alpha is a channel as any other)."""
        return self.picture(row)[0].shape, False

    def picture(self, row: int) -> tuple[np.ndarray, tuple[int, int], bool]:
        """(uint8 (H, W) or (C, H, W), (width, height), whether it was transparent).

        Raises:
            InputError: damaged, or of other than 8 bits a channel.
        """
        try:
            array = np.asarray(self.loaded[row][self.column])
        except Exception as error:  # decoders meet hostile bytes in many ways
            raise InputError(f"{self.where(row)}: the picture is damaged or truncated") from error
        whole = array.dtype == np.uint8 and array.ndim in (2, 3)
        require(whole, self.where(row), "a picture of 8 bits a channel", f"{array.dtype} of shape {array.shape}")
        return array.transpose(2, 0, 1) if array.ndim == 3 else array, (array.shape[1], array.shape[0]), False

    def notes(self, sizes: Counter[tuple[int, int]], clear: int) -> list[str]:
        """Nothing: they are taken as they are."""
        return []

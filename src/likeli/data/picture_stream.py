"""Pictures that stay in files and are decoded when a batch asks for them; see `likeli.data.stream` for their order."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from likeli.data.stream import Code, Rows, Split, Stream, chances, told_of_sample
from likeli.errors import InputError, require
from likeli.spaces import Labels, Space, caption_space

BYTES_OF_A_BLOCK, FEWEST_OF_A_BLOCK, MOST_OF_A_BLOCK = 1 << 18, 4, 256  # neighbours, so that a disk is not read at random
BYTES_AT_ONCE = 1 << 22  # that are on their way to a model which scores them
BYTES_OF_THE_SAMPLE, FEWEST_SAMPLED, MOST_SAMPLED = 1 << 24, 500, 100_000
MARK = 8  # bytes of a picture's hash
TOLD = 10  # faulty pictures that are named


class Pictures(Protocol):
    """Pictures that stay where they are, one read at a time; classes, parts and messages are the source's."""

    folds: ClassVar[bool]

    @property
    def name(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def captions(self) -> list[str] | None:
        """Of each row, in the place of classes."""
        ...
    @property
    def sizes(self) -> dict[str, int]: ...
    def __len__(self) -> int: ...
    def where(self, row: int) -> str: ...
    def labels(self, rows: np.ndarray) -> Any: ...
    def look(self, row: int) -> tuple[tuple[int, ...], bool]: ...
    def picture(self, row: int) -> tuple[np.ndarray, tuple[int, int], bool]: ...
    def notes(self, sizes: Counter[tuple[int, int]], clear: int) -> list[str]: ...


@dataclass(frozen=True)
class Form:
    """How pictures become rows of one shape: grey ones in colour too, colours that show none as grey.

    Arguments:
        shape: (H, W), or (C, H, W).
        binary: whether black and white, 0 and 255, become 0 and 1.
    """

    shape: tuple[int, ...]
    binary: bool = False

    def row(self, picture: np.ndarray, where: str) -> np.ndarray:
        """A picture (H, W) or (C, H, W) as a row.

        Raises:
            InputError: of another size, or with colours or greys that the shape has no place for.
        """
        here, wanted = picture.shape, self.shape
        if len(here) < len(wanted) and here == wanted[1:]:
            picture = np.broadcast_to(picture, wanted)
        elif len(here) > len(wanted) and here[1:] == wanted and bool((picture[:1] == picture).all()):
            picture = picture[0]
        require(picture.shape == wanted, where, size_of(wanted), size_of(here))
        require(not self.binary or is_binary(picture), where, "nothing but black and white, as before", "greys")
        return picture // 255 if self.binary else picture


def size_of(shape: tuple[int, ...]) -> str:
    """A picture's shape in words."""
    return f"{shape[-1]} x {shape[-2]} pixels" + (f" of {shape[0]} channels" if len(shape) > 2 else ", grey")


def is_binary(picture: np.ndarray) -> bool:
    """Whether it is black and white."""
    return bool(((picture == 0) | (picture == 255)).all())


def mark_of(picture: np.ndarray) -> np.ndarray:
    """The hash of what a picture shows, (MARK,)."""
    digest = hashlib.blake2b(np.ascontiguousarray(picture), digest_size=MARK, salt=str(picture.shape).encode()[:16])
    return np.frombuffer(digest.digest(), np.uint8)


@dataclass(frozen=True)
class PictureStream(Stream):
    """Pictures that stay in files; a batch decodes its own, wherever in the window of the order they lie.

    Arguments:
        pictures: the files.
        form: of a row.
        each: how many make up a block.
        marks: (N, MARK), of each picture as it was first read.
    """

    pictures: Pictures
    form: Form
    each: int
    marks: np.ndarray

    @property
    def files(self) -> int:
        return len(self.pictures)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.form.shape)

    def window(self, blocks: Sequence[int], order: Tensor, code: Code) -> Callable[[slice], Rows]:
        firsts = [(number * self.each, min(self.each, len(self.pictures) - number * self.each)) for number in blocks]
        found = [first + np.flatnonzero(self.split.parts(first, n)[0] == 0) for first, n in firsts]
        rows = np.concatenate(found)[order.numpy()]
        return lambda part: code(self._read(rows[part]), self.pictures.labels(rows[part]), self.pictures.name)

    def _read(self, rows: np.ndarray) -> Tensor:
        """The pictures of these rows, (B, *shape) uint8.

        Raises:
            InputError: damaged, or not what it was.
        """
        out = np.empty((len(rows), *self.form.shape), np.uint8)
        for i, row in enumerate(rows.tolist()):
            picture, _, _ = self.pictures.picture(row)
            same = bool((mark_of(picture) == self.marks[row]).all())
            require(same, self.pictures.where(row), "the picture that it was when it was first read", "another")
            out[i] = self.form.row(picture, self.pictures.where(row))
        return torch.from_numpy(out)


@dataclass
class PicturesSeen:
    """What one pass over pictures finds.

    Arguments:
        pictures: the files.
        first: shape of the first of them.
        grey, colour: how many cells of each level grey and coloured training pictures have.
        levels: whether a level occurs at all.
        shown: whether colours do.
        sizes, clear: of pictures before any scaling, and how many were transparent.
        faults: what is wrong, one entry a picture.
    """

    pictures: Pictures
    first: tuple[int, ...]
    grey: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    colour: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    levels: np.ndarray = field(default_factory=lambda: np.zeros(256, bool))
    coloured: bool = False
    shown: bool = False
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    clear: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, row: int, training: bool) -> tuple[np.ndarray | None, bool]:
        """(a picture as it is kept, or None if it cannot be used; whether a level occurs in it for the first time)."""
        try:
            picture, size, clear = self.pictures.picture(row)
            same = picture.shape[-2:] == self.first[-2:] if self.pictures.folds else picture.shape == self.first
            hint = f"{size_of(picture.shape)}; size={min(size)} scales and crops them all" * self.pictures.folds
            require(same, self.pictures.where(row), f"{size_of(self.first)}, as the first", hint or size_of(picture.shape))
        except InputError as error:
            self.faults.append(str(error))
            return None, False
        counts = np.bincount(picture.reshape(-1), minlength=256)
        if picture.ndim == 3:
            self.coloured, self.shown = True, self.shown or bool((picture[:1] != picture).any())
        if training:
            held = self.colour if picture.ndim == 3 else self.grey
            held += counts
        new = bool(((counts > 0) & ~self.levels).any())
        self.levels |= counts > 0
        self.sizes[size] += 1
        self.clear += clear
        return picture, new

    def form(self) -> Form:
        """Of rows, as all pictures together have it."""
        folds = self.pictures.folds
        colour = self.coloured and (self.shown or not folds)
        shape = self.first if not folds else (3, *self.first[-2:]) if colour else self.first[-2:]
        return Form(shape, folds and not self.levels[1:255].any())

    def moments(self, form: Form) -> tuple[float, float]:
        """Mean and standard deviation of all training cells."""
        cells = self.grey * 3 + self.colour if len(form.shape) > 2 else self.grey + self.colour // 3
        level = np.arange(256) / (255 if form.binary else 1)
        mean = float(level @ cells) / max(int(cells.sum()), 1)
        return mean, math.sqrt(float(np.square(level - mean) @ cells) / max(int(cells.sum()), 1)) or 1.0

    def told(self, form: Form) -> list[str]:
        """What was done to pictures, and may surprise."""
        what = self.pictures.what
        grey = f"{what}: colour pictures whose three channels are equal were taken as grey"
        binary = f"{what}: pictures of nothing but black and white were taken as binary, 0 and 1"
        one = f"{self.pictures.name}: labels: all rows have one label, so there is nothing to condition on"
        said = self.pictures.notes(self.sizes, self.clear) + [grey] * (self.coloured and len(form.shape) < 3)
        return said + [binary] * form.binary + [one] * (len(self.pictures.classes) == 1)


def survey_pictures(pictures: Pictures, split: Split) -> tuple[Tensor, np.ndarray, tuple[Tensor, ...], Stream, list[str]]:
    """Decode all pictures once: (a sample of them, their rows, those of it that are of each part, the stream, notes).

    Each level that occurs is in the sample.

    Raises:
        InputError: damaged, truncated, huge, or of another size than the first: each such file in one line.
    """
    n, first = len(pictures), _first_shape(pictures)
    cells = math.prod(first)
    size = max(min(BYTES_OF_THE_SAMPLE // cells, MOST_SAMPLED), min(FEWEST_SAMPLED, 8 * BYTES_OF_THE_SAMPLE // cells), 8)
    chance, each = chances(size, n, split), min(max(BYTES_OF_A_BLOCK // cells, FEWEST_OF_A_BLOCK), MOST_OF_A_BLOCK)
    seen, training, marks = PicturesSeen(pictures, first), list[int](), np.zeros((n, MARK), np.uint8)
    kept, rows, of = list[np.ndarray](), list[int](), list[int]()
    for begin in range(0, n, each):
        part, place = split.parts(begin, min(each, n - begin))
        training.append(int((part == 0).sum()))
        for row, p, drawn in zip(range(begin, n), part.tolist(), (place < chance[part]).tolist()):
            picture, new = seen.add(row, p == 0)
            if picture is None:
                continue
            marks[row] = mark_of(picture)
            if drawn or new:
                kept.append(np.ascontiguousarray(picture))
                rows.append(row)
                of.append(p if drawn or p == 0 else 3)
    refuse_faulty(pictures, seen.faults)
    form = seen.form()
    x = torch.from_numpy(np.stack([form.row(picture, pictures.where(row)) for picture, row in zip(kept, rows)]))
    mean, scale = seen.moments(form)
    digest = hashlib.sha256(marks)
    for text in pictures.captions or ():
        digest.update(f"{text}\n".encode())
    stream = PictureStream(split, training, digest.hexdigest(), {"": mean}, {"": scale}, pictures, form, each, marks)
    notes = [*seen.told(form), told_of_sample(pictures.name, n, "picture", stream.files, len(x))]
    parts = torch.tensor(of)
    return x, np.array(rows), tuple(torch.nonzero(parts == i)[:, 0] for i in range(3)), stream, notes


def _first_shape(pictures: Pictures) -> tuple[int, ...]:
    faults = []
    for row in range(len(pictures)):
        try:
            return pictures.look(row)[0]
        except InputError as error:
            faults.append(str(error))
    refuse_faulty(pictures, faults)
    return ()


def refuse_faulty(pictures: Pictures, faults: list[str]) -> None:
    """Name all pictures that cannot be used, or the first of them and how many more there are.

    Raises:
        InputError: there are some.
    """
    if faults:
        more = f"; and {len(faults) - TOLD:,} more" if len(faults) > TOLD else ""
        many = f"{pictures.what}: {len(faults):,} of {len(pictures):,} pictures cannot be used: " * (len(faults) > 1)
        raise InputError(many + "; ".join(faults[:TOLD]) + more)


def parts_of_pictures(pictures: Pictures, space: Space) -> Iterator[tuple[Tensor, Any, str]]:
    """All pictures as rows for a model that exists, some at a time: rows, labels, and how they are named in messages.

    Raises:
        InputError: one is damaged, or of another size than the model's rows.
    """
    n, faults = len(pictures), list[str]()
    for row in range(n):
        try:
            shape, _ = pictures.look(row)
            require(shape[-2:] == space.shape[-2:], pictures.where(row), size_of(space.shape), size_of(shape))
        except InputError as error:
            faults.append(str(error))
    refuse_faulty(pictures, faults)
    form = Form(space.shape, pictures.folds and all(is_binary(pictures.picture(row)[0]) for row in range(n)))
    each = max(BYTES_AT_ONCE // math.prod(form.shape), 1)
    for begin in range(0, n, each):
        rows = np.arange(begin, min(begin + each, n))
        x = np.stack([form.row(pictures.picture(row)[0], pictures.where(row)) for row in rows.tolist()])
        yield torch.from_numpy(x), pictures.labels(rows), f"{pictures.name}, rows from {begin}"


def condition_of(pictures: Pictures) -> Space | None:
    """What their classes or captions are."""
    if pictures.captions is not None:
        return caption_space(pictures.captions)
    return Labels(len(pictures.classes), tuple(pictures.classes)) if pictures.classes else None

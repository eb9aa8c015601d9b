"""A folder of pictures, all grey or all in colour; subfolders are classes, or the parts of a split with classes in them."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from likeli.data.readers.folders import SUFFIXES, Listing, find_pictures
from likeli.data.readers.npy import memory_limit, open_regular
from likeli.errors import InputError, nearest, require
from likeli.spaces.alphabet import split_words

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MOST_PIXELS = 4096  # of a side, to scale pictures to
MAX_PIXELS = 4096 * 4096
GREY = frozenset({"1", "L"})
CLEAR = "+clear"  # after the mode of a picture that has transparency, in a channel or as a colour of its palette
CAPTIONS = (".csv", ".tsv", ".txt")
ORIENTATION, TURNED = 0x0112, range(5, 9)  # the EXIF tag, and its values that swap width and height


def read_folder(
    folder: str | Path, edge: int | None = None
) -> tuple[np.ndarray, list[str], list[str] | None, dict[str, int], list[str]]:
    """(pictures uint8 (N, H, W) or (N, 3, H, W), name and class of each or None, rows of each part, warnings), by sorted names.

    Arguments:
        edge: scale pictures to a shorter side of so many pixels and cut out their middle square; as they are if not given.

    Raises:
        InputError: no pictures, sizes that differ, a damaged or huge picture; the file is named.
    """
    listing = find_pictures(folder)
    rows = range(len(listing))
    files = [listing.path(i) for i in rows]
    pictures, notes = read_pictures(files, str(folder), edge)
    if pictures.ndim == 4 and (pictures[:, :1] == pictures[:, 1:]).all():
        pictures, more = pictures[:, 0], f"{folder}: colour pictures whose three channels are equal were taken as grey"
        notes.append(more)
    if ((pictures == 0) | (pictures == 255)).all():
        pictures, more = pictures // 255, f"{folder}: pictures of nothing but black and white were taken as binary, 0 and 1"
        notes.append(more)
    return pictures, [listing.name(i) for i in rows], listing.labels(np.arange(len(rows))), listing.sizes, notes


def captions_of(folder: str, labels: Any) -> Path | None:
    """The file of a folder's captions, where `labels` asks for them.

    Raises:
        InputError: there is none.
    """
    if isinstance(labels, str) and labels == "captions":
        there = [path for path in (Path(folder) / f"captions{suffix}" for suffix in CAPTIONS) if path.is_file()]
        require(len(there) > 0, "labels", f"captions.csv or captions.txt in {folder}", "neither")
        return there[0]
    named = isinstance(labels, str) and Path(labels).suffix.lower() in CAPTIONS and Path(labels).is_file()
    return Path(labels) if named else None


def read_captions(path: Path, files: list[str]) -> tuple[list[str], list[str]]:
    """The caption of each picture, empty where there is none, and warnings.

    A line is `file,caption`, in a .tsv with a tab; a caption may hold commas.  A first line that names no picture is a header.

    Arguments:
        path: of the file, in UTF-8.
        files: paths of pictures below their folder; a name alone does where it is of one of them.

    Raises:
        InputError: a line without a caption, or of a picture that is not there; no caption at all.
    """
    names = [f.rpartition("/")[2] for f in files]
    count = Counter(names)
    place = {n: i for i, n in enumerate(names) if count[n] == 1} | {f: i for i, f in enumerate(files)}
    mark, found, again = "\t" if path.suffix.lower() == ".tsv" else ",", dict[int, str](), 0
    try:
        with open_regular(path) as file:
            lines = list(csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=mark))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected lines of text in UTF-8, `file,caption`, got {error}") from error
    for number, cells in enumerate(lines, 1):
        name, text = (cells[0].strip(), mark.join(cells[1:]).strip()) if cells else ("", "")
        header = number == 1 and Path(name).suffix.lower() not in SUFFIXES
        if not name or header:
            continue
        require(len(cells) > 1, f"{path}: line {number}", "file,caption", name[:60])
        known = f"a picture of the folder{nearest(name, place)}"
        require(name in place, f"{path}: line {number}", known, repr(name[:60]))
        again += place[name] in found
        found.setdefault(place[name], text)
    texts = [found.get(i, "") for i in range(len(files))]
    bare = sum(not split_words(text) for text in texts)
    require(bare < len(texts), str(path), "captions of the folder's pictures", "none")
    told = [f"{path}: {bare} of {len(files)} pictures have no caption; diffusions learn p(x) from those"] * (bare > 0)
    return texts, told + [f"{path}: {again} lines are of pictures that have a caption, and were passed over"] * (again > 0)


def read_pictures(files: list[Path], what: str, edge: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Pictures of one size, uint8 (N, H, W) when all are grey, else (N, 3, H, W), and what was done to them."""
    require(edge is None or 1 <= edge <= MOST_PIXELS, "size", f"a whole number of pixels from 1 to {MOST_PIXELS}", edge)
    shapes = [_look(path) for path in files]
    (size, _), first = shapes[0], files[0]
    for path, (other, _) in zip(files, shapes):
        hint = f"{other[0]} x {other[1]}; size={min(size)} scales and crops them all to {min(size)} x {min(size)}"
        require(other == size or edge is not None, str(path), f"{size[0]} x {size[1]} pixels as {first.name}", hint)
    clear = sum(mode.endswith(CLEAR) for _, mode in shapes)
    notes = [f"{what}: {clear} pictures have transparency; they were laid over white"] * (clear > 0)
    if edge is not None:
        notes += told_of_scaling(what, Counter(s for s, _ in shapes), edge)
        size = edge, edge
    grey = all(mode.removesuffix(CLEAR) in GREY for _, mode in shapes)
    shape = (len(files), size[1], size[0]) if grey else (len(files), 3, size[1], size[0])
    fits = int(np.prod(shape, dtype=object)) <= memory_limit()
    require(fits, str(first.parent), "pictures that fit into memory", f"{len(files)} of {size[0]} x {size[1]}")
    pictures = np.empty(shape, np.uint8)
    for i, (path, (before, _)) in enumerate(zip(files, shapes)):
        pictures[i] = _decode(path, before, grey, edge)
    return pictures, notes


def told_of_scaling(what: str, sizes: Counter[tuple[int, int]], edge: int) -> list[str]:
    """What scaling and cropping does to pictures of these sizes."""
    other = Counter({size: n for size, n in sizes.items() if size != (edge, edge)})
    if not other:
        return []
    least, most = min(other, key=lambda s: s[0] * s[1]), max(other, key=lambda s: s[0] * s[1])
    cut, wider = sum(n for (w, h), n in other.items() if w != h), sum(n for s, n in other.items() if min(s) < edge)
    done = f"{what}: {other.total()} of {sizes.total()} pictures ({least[0]} x {least[1]} to {most[0]} x {most[1]}) were scaled"
    how = f", {wider} of them enlarged" * (wider > 0) + f", {cut} cropped to their middle" * (cut > 0)
    return [f"{done} to {edge} x {edge}{how}"]


@contextmanager
def _opened(path: Path, problem: str) -> Iterator[Any]:
    from PIL import Image

    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is far below Pillow's
        try:
            with Image.open(file, formats=FORMATS) as picture:
                yield picture
        except Image.DecompressionBombError as error:
            raise InputError(f"{path}: expected at most {MAX_PIXELS:,} pixels, got far more") from error
        except InputError:
            raise
        except Exception as error:  # decoders meet hostile bytes in many ways
            raise InputError(f"{path}: {problem}") from error


def _look(path: Path) -> tuple[tuple[int, int], str]:
    """Size and mode from the header alone, before any pixel is decoded."""
    with _opened(path, f"is not a picture ({', '.join(FORMATS)}), or damaged") as picture:
        return _facts(picture, path)


def _facts(picture: Any, path: Path) -> tuple[tuple[int, int], str]:
    size, mode = picture.size, picture.mode
    clear = picture.has_transparency_data
    size = size[::-1] if _orientation(picture) in TURNED else size
    require(size[0] * size[1] <= MAX_PIXELS, str(path), f"at most {MAX_PIXELS:,} pixels", f"{size[0]:,} x {size[1]:,}")
    require(min(size) > 0, str(path), "a picture with pixels", f"{size[0]} x {size[1]}")
    wide = mode.startswith(("I", "F"))
    require(not wide, str(path), "8 bits a channel", f"mode {mode}; load it as .npy with kind='pixels:65536'")
    return size, mode + CLEAR * clear


def _orientation(picture: Any) -> int:
    """What EXIF says before any pixel is decoded; 1 is as it lies."""
    known = picture.format != "PNG" or "exif" in picture.info  # Pillow would decode a PNG to look behind its pixels
    orientation: int = picture.getexif().get(ORIENTATION, 1) if known else 1
    return orientation


def _decode(path: Path, size: tuple[int, int], grey: bool, edge: int | None) -> np.ndarray:
    with _opened(path, "the picture is damaged or truncated") as picture:
        array = _pixels(picture, size, grey, edge)
    require(array.size > 0, str(path), "the size it had a moment ago", "another")
    return array


def _pixels(picture: Any, size: tuple[int, int], grey: bool, edge: int | None) -> np.ndarray:
    """(H, W) or (3, H, W); empty if the picture is of another size."""
    from PIL import Image, ImageOps

    clear = picture.has_transparency_data
    if _orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)  # as a viewer shows it
    if picture.size != size:
        return np.empty(0, np.uint8)
    if clear:
        over = Image.new("RGBA", size, "white")
        over.alpha_composite(picture.convert("RGBA"))
        picture = over
    picture = picture.convert("L" if grey else "RGB")
    if edge is not None and size != (edge, edge):
        picture = ImageOps.fit(picture, (edge, edge), Image.Resampling.LANCZOS)
    array = np.asarray(picture)
    return array if grey else array.transpose(2, 0, 1)


@dataclass(frozen=True)
class Album:
    """The pictures of a folder, one read at a time.

    Arguments:
        listing: where they are.
        edge: as for `read_folder`.
        captions: of each row, in the place of classes.
        said: what was odd about those.
    """

    listing: Listing
    edge: int | None = None
    captions: list[str] | None = None
    said: tuple[str, ...] = ()
    folds: ClassVar[bool] = True  # whether what shows no colour or no grey is taken as grey or binary

    def __len__(self) -> int:
        return len(self.listing)

    @property
    def name(self) -> str:
        """Of the folder."""
        return os.path.basename(os.path.normpath(self.listing.root))

    @property
    def classes(self) -> list[str]:
        """Their names; none without classes, or beside captions."""
        return self.listing.classes if self.captions is None else []

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of the folder's own parts."""
        return self.listing.sizes

    @property
    def what(self) -> str:
        """How all of them are named in messages."""
        return self.listing.root

    def notes(self, sizes: Counter[tuple[int, int]], clear: int) -> list[str]:
        """What was done to pictures, of which so many are of each size and so many transparent."""
        notes = [f"{self.what}: {clear} pictures have transparency; they were laid over white"] * (clear > 0)
        notes += self.said
        return notes if self.edge is None else notes + told_of_scaling(self.what, sizes, self.edge)

    def where(self, row: int) -> str:
        """How a row is named in messages."""
        return str(self.listing.path(row))

    def labels(self, rows: np.ndarray) -> list[str] | None:
        """The classes of rows, or their captions."""
        return self.listing.labels(rows) if self.captions is None else [self.captions[row] for row in rows.tolist()]

    def look(self, row: int) -> tuple[tuple[int, ...], bool]:
        """(the shape that a row will have, whether it is transparent), from its header.

        Raises:
            InputError: no picture, or a huge one.
        """
        (width, height), mode = _look(self.listing.path(row))
        width, height = (width, height) if self.edge is None else (self.edge, self.edge)
        clear = mode.endswith(CLEAR)
        return (height, width) if mode.removesuffix(CLEAR) in GREY else (3, height, width), clear

    def picture(self, row: int) -> tuple[np.ndarray, tuple[int, int], bool]:
        """(uint8 (H, W) or (3, H, W) as the file has it, (width, height) before any scaling, whether it was transparent).

        Raises:
            InputError: damaged, truncated, huge; the file is named.
        """
        path = self.listing.path(row)
        with _opened(path, f"is not a picture ({', '.join(FORMATS)}), or damaged or truncated") as picture:
            size, mode = _facts(picture, path)
            array = _pixels(picture, size, mode.removesuffix(CLEAR) in GREY, self.edge)
        return array, size, mode.endswith(CLEAR)


def captioned(album: Album, path: Path) -> Album:
    """The album with the captions of a file; see `read_captions`."""
    texts, said = read_captions(path, [album.listing.name(row) for row in range(len(album))])
    return replace(album, captions=texts, said=tuple(said))

"""A folder of pictures: one size, all grey or all in colour; subfolders are classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from likeli.data.readers.npy import memory_limit, open_regular
from likeli.errors import InputError, require

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 4096 * 4096
GREY = frozenset({"1", "L"})
CLEAR = "+clear"  # after the mode of a picture that has transparency, in a channel or as a colour of its palette


def read_folder(folder: str | Path) -> tuple[np.ndarray, list[str] | None, list[str]]:
    """(pictures uint8 (N, H, W) or (N, 3, H, W), class of each or None, warnings), in the order of their sorted names.

    Raises:
        InputError: no pictures, sizes that differ, a damaged or huge picture; the file is named.
    """
    root = Path(folder)
    parts = {p: p.relative_to(root).parts for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES}
    files = [p for p, names in parts.items() if not any(name.startswith(".") for name in names)]
    require(len(files) > 0, str(folder), f"pictures ({', '.join(sorted(SUFFIXES))})", "a folder without any")
    classes = [parts[p][0] if len(parts[p]) > 1 else None for p in files]
    mixed = None in classes and any(classes)
    require(not mixed, str(folder), "pictures either in subfolders or beside each other", "both")
    pictures, alpha = read_pictures(files)
    notes = [f"{folder}: {alpha} pictures have transparency; they were laid over white"] * (alpha > 0)
    if pictures.ndim == 4 and (pictures[:, :1] == pictures[:, 1:]).all():
        pictures, more = pictures[:, 0], f"{folder}: colour pictures whose three channels are equal were taken as grey"
        notes.append(more)
    return pictures, [str(c) for c in classes] if any(classes) else None, notes


def read_pictures(files: list[Path]) -> tuple[np.ndarray, int]:
    """Pictures of one size, uint8 (N, H, W) when all are grey, else (N, 3, H, W), and how many had transparency."""
    shapes = [_look(path) for path in files]
    (size, _), first = shapes[0], files[0]
    for path, (other, _) in zip(files, shapes):
        require(other == size, str(path), f"{size[0]} x {size[1]} pixels as {first.name}", f"{other[0]} x {other[1]}")
    grey = all(mode.removesuffix(CLEAR) in GREY for _, mode in shapes)
    shape = (len(files), size[1], size[0]) if grey else (len(files), 3, size[1], size[0])
    fits = int(np.prod(shape, dtype=object)) <= memory_limit()
    require(fits, str(first.parent), "pictures that fit into memory", f"{len(files)} of {size[0]} x {size[1]}")
    pictures = np.empty(shape, np.uint8)
    for i, path in enumerate(files):
        pictures[i] = _decode(path, size, grey)
    return pictures, sum(mode.endswith(CLEAR) for _, mode in shapes)


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
        except Exception as error:  # decoders meet hostile bytes in many ways
            raise InputError(f"{path}: {problem}") from error


def _look(path: Path) -> tuple[tuple[int, int], str]:
    """Size and mode from the header alone, before any pixel is decoded."""
    with _opened(path, f"is not a picture ({', '.join(FORMATS)}), or damaged") as picture:
        size, mode = picture.size, picture.mode
        clear = picture.has_transparency_data
    require(size[0] * size[1] <= MAX_PIXELS, str(path), f"at most {MAX_PIXELS:,} pixels", f"{size[0]:,} x {size[1]:,}")
    require(min(size) > 0, str(path), "a picture with pixels", f"{size[0]} x {size[1]}")
    wide = mode.startswith(("I", "F"))
    require(not wide, str(path), "8 bits a channel", f"mode {mode}; load it as .npy with kind='pixels:65536'")
    return size, mode + CLEAR * clear


def _decode(path: Path, size: tuple[int, int], grey: bool) -> np.ndarray:
    with _opened(path, "the picture is damaged or truncated") as picture:
        same = picture.size == size
        if same and picture.has_transparency_data:
            from PIL import Image

            over = Image.new("RGBA", size, "white")
            over.alpha_composite(picture.convert("RGBA"))
            picture = over
        array = np.asarray(picture.convert("L" if grey else "RGB")) if same else np.empty(0)
    require(same, str(path), "the size it had a moment ago", "another")
    return array if grey else array.transpose(2, 0, 1)

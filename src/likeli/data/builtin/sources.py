"""Data that needs no file: real digits, distributions known exactly, and drawn scenes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.data.builtin import scenes, toys
from likeli.data.readers.tables import Frame
from likeli.data.stream import Streamed
from likeli.errors import InputError, nearest, require
from likeli.spaces import Labels, Pixels, Space


@dataclass
class Raw:
    """What a source gives before it is split and its space is fitted.

    Arguments:
        name: for tables and file names.
        values: an array or columns.
        y: labels, if any.
        space: given by the source, or None to be fitted.
        kind: how the values are taken.
        condition: what y is, or None to be fitted.
        truth: the distribution the rows were drawn from.
        labelled: whether y is what the user's `labels` named.
        split: the rows for training, validation and test, where the source has its own; by the seed if None.
        warnings: what was odd.
        extras: what else is known of each row.
        stream: where all training rows are, if the values are a sample of rows that stay in files, or sparse.
    """

    name: str
    values: Tensor | Frame
    y: Any = None
    space: Space | None = None
    kind: str | None = None
    condition: Space | None = None
    truth: toys.Toy | None = None
    labelled: bool = False
    split: tuple[Tensor, ...] | None = None
    warnings: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    stream: Streamed | None = None

    @property
    def lines(self) -> Sequence[int] | None:
        """The line of the file that each row came from, where there is one."""
        return self.values.lines if isinstance(self.values, Frame) else None


@dataclass(frozen=True)
class Source:
    """One built-in source.

    Arguments:
        about: one line.
        make: (seed, **options) → Raw.
        options: whole-number options and their defaults.
        truth: whether log p(x) is known.
    """

    about: str
    make: Callable[..., Raw]
    options: dict[str, int] = field(default_factory=dict)
    truth: bool = False


def _digits(seed: int) -> Raw:
    """The table that scikit-learn brings along, without the second that importing the package takes."""
    found = find_spec("sklearn")
    folder = Path((found.submodule_search_locations or [""])[0] if found else "")
    with gzip.open(folder / "datasets" / "data" / "digits.csv.gz") as file:
        rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.int64))
    x, y = rows[:, :64].reshape(-1, 8, 8).to(torch.uint8), rows[:, 64]
    return Raw("digits", x, y, Pixels((8, 8), 17), "pixels", Labels(10))


def _scenes(seed: int, n: int, size: int, objects: int, unseen: int) -> Raw:
    """Scenes of one object, or of one or two; `unseen` 1 leaves out the pairs of colour and shape of `scenes.held_out`."""
    require(objects in (1, 2), "scenes: objects", "1, or 2 for one or two", objects)
    require(unseen in (0, 1), "scenes: unseen", "0 or 1", unseen)
    make = scenes.draw_factors if objects == 1 else scenes.draw_scenes
    factors = make(n, seed)
    while unseen and scenes.held_out(factors).any():
        again = make(n, seed := seed + 2**32)
        factors = torch.cat([factors[~scenes.held_out(factors)], again[~scenes.held_out(again)]])[:n]
    captions = [scenes.caption(f) for f in factors]
    extras = {"factors": factors, "captions": captions, "names": scenes.FACTORS}
    return Raw("scenes", scenes.render(factors, size), None, Pixels((3, size, size)), "pixels", extras=extras)


def _toy(build: Callable[..., toys.Toy]) -> Source:
    def make(seed: int, n: int, **options: int) -> Raw:
        truth = build(**options)
        return Raw(build.__name__, truth.sample(n, seed), space=truth.space, kind=truth.kind, truth=truth)

    options = {name: parameter.default for name, parameter in signature(build).parameters.items()}
    return Source((build.__doc__ or "").split("\n")[0].rstrip("."), make, {"n": 10_000, **options}, truth=True)


TOYS = (toys.gaussian, toys.ring8, toys.checkerboard, toys.ppca_draw, toys.gmm_draw, toys.markov)
PICTURES = "Drawn pictures of one object, or two, on a floor before a wall, with known factors; labels=captions takes texts"
SOURCES: dict[str, Source] = {
    "digits": Source("1,797 handwritten digits of 8 × 8 pixels with 17 grey levels, labelled 0 to 9 (scikit-learn)", _digits),
    **{build.__name__: _toy(build) for build in TOYS},
    "scenes": Source(PICTURES, _scenes, {"n": 4000, "size": 32, "objects": 1, "unseen": 0}),
}


def make_source(name: str, seed: int, given: dict[str, str]) -> Raw:
    """The rows of the built-in source `name`.

    Raises:
        InputError: an option that it does not have, or that is no whole number.
    """
    source = SOURCES[name]
    options = dict(source.options)
    for key, value in given.items():
        if key not in source.options:
            listed = ", ".join(source.options) or "no options"
            raise InputError(f"{name}: unknown option {key!r}; it has {listed}{nearest(key, source.options)}")
        low, number = 0 if key in ("draw", "unseen") else 1, str(value)
        whole = number.isdecimal() and low <= int(number) <= 10**7
        require(whole, f"{name}: {key}", f"a whole number from {low} to 10,000,000", value)
        options[key] = int(number)
    cells = options.get("n", 1) * max(options.get("dims", 1), options.get("length", 1), options.get("size", 1) ** 2 * 3)
    require(cells <= 2**28, name, f"at most {2**28:,} cells", f"{cells:,}")
    return source.make(seed, **options)


def describe_sources() -> list[dict[str, Any]]:
    """Every built-in source and form of file, for a listing: name, about, options, whether log p(x) is known."""
    builtin = [
        {"name": name, "about": s.about, "options": dict(s.options), "truth": s.truth} for name, s in SOURCES.items()
    ]
    forms = {
        "FILE.npy": "an array (rows, …)",
        "FILE.npz:KEY": "one array of several; without KEY, the only one, or x with y as labels",
        "FILE.csv, .tsv": "a table with a header line; blank, NA, nan and ? are missing",
        "FILE.parquet": "a table (extra: data)",
        "FILE.txt:context=64": "text: windows of 64 symbols split in order, or whole lines (unit=line)",
        "FOLDER": "pictures of one size; subfolders are classes; above 256 MiB, or with stream=1, they stay there",
        "hf:NAME": "a data set of the Hugging Face hub (extra: data)",
    }
    return builtin + [{"name": name, "about": about, "options": {}, "truth": False} for name, about in forms.items()]

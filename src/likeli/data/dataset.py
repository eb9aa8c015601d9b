"""Examples, what they are, and a split that is a function of a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from likeli.config import describe
from likeli.data.builtin.toys import Toy
from likeli.data.infer import locate
from likeli.data.stream import Streamed
from likeli.errors import InputError, require
from likeli.random import permutation
from likeli.spaces import Space

Part = Literal["train", "valid", "test"]
Fractions = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Data:
    """Examples with their space, labels and split.

    Arguments:
        name: for tables and file names.
        x: (N, *space.shape) in the user's units; NaN is a missing cell.
        y: (N, *condition.shape), or None.
        space: what one row of x is; its mean and scale come from the training rows.
        condition: what one row of y is.
        train, valid, test: row numbers, disjoint and together complete, but for rows of a stream's sample that only show what
            there is.
        truth: the distribution the rows were drawn from, where it is known.
        seed, fractions: of the split.
        warnings: what may surprise, one line each.
        kind: how the values were taken (see `load_data`).
        origin: the arguments that load the same data again; `source` is None for data given in memory.
        extras: what else the source knows of each row, such as a scene's factors and captions.
        lines: the line of the file that each row came from.
        reasons: why a table's columns are of their types, by name.
        stream: where all training rows are, if x is a sample of rows that stay in files, or sparse.
    """

    name: str
    x: Tensor
    y: Tensor | None
    space: Space
    condition: Space | None
    train: Tensor
    valid: Tensor
    test: Tensor
    truth: Toy | None = None
    seed: int = 0
    fractions: Fractions = (0.8, 0.1, 0.1)
    warnings: list[str] = field(default_factory=list)
    kind: str = "real"
    origin: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    lines: Sequence[int] | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    stream: Streamed | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        sizes = "/".join(str(len(self.rows(p))) for p in ("train", "valid", "test"))
        warned = f", {len(self.warnings)} warning{'s' * (len(self.warnings) != 1)}" if self.warnings else ""
        return f"Data({self.name}: {self.kind} {tuple(self.x.shape)}, {sizes} rows{warned})"

    def rows(self, part: Part) -> Tensor:
        """The row numbers of one part of the split."""
        require(part in ("train", "valid", "test"), "part", "train, valid or test", part)
        return getattr(self, part)

    def split(self, part: Part) -> tuple[Tensor, Tensor | None]:
        """(x, y) of one part."""
        rows = self.rows(part)
        return self.x[rows], None if self.y is None else self.y[rows]

    def describe(self) -> dict[str, Any]:
        """Plain JSON: what `load_data` needs for the same rows in the same split, and what came out of it."""
        return {
            "name": self.name,
            **{k: self.origin.get(k) for k in ("source", "kind", "labels")},
            **{k: self.origin[k] for k in ("types", "columns", "label_dtype", "layer") if k in self.origin},
            "seed": self.seed,
            "fractions": list(self.fractions),
            "rows": len(self.x),
            **({"streamed": len(self.stream), **self.stream.facts} if self.stream else {}),
            "split": {part: len(self.rows(part)) for part in ("train", "valid", "test")},
            "values": self.kind,
            "space": describe(self.space),
            "condition": None if self.condition is None else describe(self.condition),
            "fingerprint": self.fingerprint(),
            "truth": self.truth is not None,
        }

    def fingerprint(self) -> str:
        """sha256 of x's and y's bytes, and of the files that they are a sample of: whether a source holds what it held."""
        digest = hashlib.sha256(self.stream.digest.encode() if self.stream else b"")
        for tensor in (self.x, self.y):
            if tensor is not None:
                digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
                digest.update(tensor.contiguous().cpu().numpy().data)
        return digest.hexdigest()

    def check_vocabulary(self, space: Space) -> None:
        """Refuse text whose symbols stand for other characters than those of `space`, a model's.

        Raises:
            InputError: another vocabulary.
        """
        own, other = (describe(s).get("alphabet") for s in (self.space, space))
        same = own == other or None in (own, other)
        expected = "text in the model's vocabulary; read it with vocab=model.space.alphabet"
        require(same, self.name, expected, "another vocabulary")

    def refuse_missing(self, who: str) -> None:
        """Refuse x for `who`, a family that takes no missing cells, if one is; see the function of this name."""
        refuse_missing(self.x, self.space, self.name, who, self.lines)


def refuse_missing(x: Tensor, space: Space, name: str, who: str, lines: Sequence[int] | None = None) -> None:
    """Name the first missing cell of x, by its line of the file where that is known.

    Raises:
        InputError: a cell is NaN.
    """
    gone = x.isnan() if x.is_floating_point() else torch.zeros(0)
    if not gone.any():
        return
    count = int(gone.sum())
    raise InputError(
        f"{name}: {locate(space, x, gone, lines)} is missing ({count} such cell{'s' * (count > 1)}), which {who} cannot take;"
        " fill or drop them, or use a family that marginalises them, such as gmm or ppca"
    )


def split_parts(sizes: dict[str, int], seed: int, fractions: Fractions) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of the three parts where a source brings its own test or validation part after its training part.

    What it does not bring is taken out of the training rows, in the proportion of `fractions`.

    Arguments:
        sizes: rows of `train`, `valid` and `test`, in the order in which they lie; what is not there is left out.
    """
    rows = dict(zip(sizes, torch.arange(sum(sizes.values())).split(list(sizes.values()))))
    wanted = {part: 0.0 if part in rows and part != "train" else f for part, f in zip(("train", "valid", "test"), fractions)}
    total = sum(wanted.values())
    cut = split_rows(sizes["train"], seed, (wanted["train"] / total, wanted["valid"] / total, wanted["test"] / total))
    train, valid, test = (rows["train"][part] for part in cut)
    return train, rows.get("valid", valid), rows.get("test", test)


def split_rows(n: int, seed: int, fractions: Fractions) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of the training, validation and test parts.

    A permutation that is a function of (n, seed) is cut at the rounded fractions, with one training row at least.

    Raises:
        InputError: fractions that are not three parts of one.
    """
    ok = len(fractions) == 3 and all(f >= 0 for f in fractions) and abs(sum(fractions) - 1) < 1e-6
    require(ok and fractions[0] > 0, "fractions", "three parts of 1 (train, valid, test), the first above 0", fractions)
    valid, test = (int(n * f + 0.5) for f in fractions[1:])
    train = max(n - valid - test, 1)
    order = permutation(n, seed, "split")
    return order[:train], order[train : train + valid], order[train + valid :]

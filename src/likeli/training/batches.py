"""The rows that a run trains on and validates with, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from likeli.contract import GenerativeModel
from likeli.data.builtin.sources import Raw
from likeli.data.coded import coded
from likeli.data.dataset import Data
from likeli.data.stream import Code, Streamed
from likeli.errors import InputError, require
from likeli.random import derive, permutation
from likeli.spaces.arrays import as_tensor, row_weights
from likeli.spaces.labels import unlabelled


@dataclass(frozen=True)
class InFiles:
    """Where training rows stay: in files, or sparse.

    Arguments:
        stream: they.
        code: how their rows become the model's.
    """

    stream: Streamed
    code: Code


@dataclass(frozen=True)
class Examples:
    """Rows to train on or to validate with.

    Arguments:
        x: (N, *shape) in the user's units.
        y: (N, *condition.shape), for a conditional model.
        weight: (N,), how often each row counts, for families that take weights; once if not given.
        files: where the rows are, if there are too many; x and y are a sample of them then.
    """

    x: Tensor
    y: Tensor | None = None
    weight: Tensor | None = None
    files: InFiles | None = None

    def __len__(self) -> int:
        return len(self.x) if self.files is None else len(self.files.stream)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows of `index`."""
        return self.x.index_select(0, index), None if self.y is None else self.y.index_select(0, index)

    def shuffled(self, seed: int, epoch: int) -> Callable[[slice], tuple[Tensor, Tensor | None]]:
        """Rows a … b − 1 of an epoch's order, a function of (seed, epoch), when asked for `slice(a, b)`.

        Weighted rows are drawn anew in every epoch, so that the mean gradient is that of Σ_i w_i ℓ(x_i) / Σ w.
        """
        if self.files is not None:
            take, device = self.files.stream.shuffled(seed, epoch, self.files.code), self.x.device
            return lambda rows: _on(device, *take(rows))
        order = permutation(len(self), seed, epoch).to(self.x.device)
        if self.weight is not None:
            order = resampled(self.weight, order, derive(seed, "weights", epoch) / 2**63)
        return lambda rows: self.rows(order[rows])

    def part(self, rows: slice) -> Examples:
        """These rows of them, in their order."""
        y, weight = (None if t is None else t[rows] for t in (self.y, self.weight))
        return Examples(self.x[rows], y, weight)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All rows in order, `size` at a time."""
        for start in range(0, len(self.x), size):
            rows = slice(start, start + size)
            yield self.x[rows], None if self.y is None else self.y[rows]

    def to(self, device: torch.device) -> Examples:
        """The same rows on `device`."""
        weight = None if self.weight is None else self.weight.to(device)
        return Examples(*_on(device, self.x, self.y), weight, self.files)


def _on(device: torch.device, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return x.to(device), None if y is None else y.to(device)


def gather(
    model: GenerativeModel, data: Any, y: Any = None, sample_weight: Any = None
) -> tuple[Examples, Examples | None]:
    """Training rows and validation rows (None for an array, or an empty split), checked against the model's space.

    Arguments:
        model: whose space and condition the rows must fit.
        data: a `Data`, or an array of training rows.
        y: the conditions of an array's rows.
        sample_weight: how often each row counts; of all rows of a `Data`, in their order.

    Raises:
        InputError: fewer than two rows, values outside the space, y or weights missing or not wanted.
    """
    at_once = model.strategy in ("em", "closed_form")
    wanted = sample_weight is None or model.takes_weights or not at_once
    require(wanted, "sample_weight", f"nothing, since {model.kind()} takes no weights; repeat the rows", "weights")
    if not (hasattr(data, "train") and hasattr(data, "valid")):
        return _weighted(_checked(model, data, y), sample_weight), None
    require(y is None, "y", "nothing, since the data bring their own", y)
    if not model.takes_missing and hasattr(data, "refuse_missing"):
        data.refuse_missing(model.kind())
    if hasattr(data, "check_vocabulary"):
        data.check_vocabulary(model.space)
    train, valid = data.split("train"), data.split("valid")
    wanted = model.condition is not None
    rows = [(x, y if wanted else None) for x, y in (train, valid)]
    weight = None if sample_weight is None else row_weights(sample_weight, len(data))
    known = _checked(model, *rows[1], least=1) if len(rows[1][0]) else None
    if isinstance(data, Data) and data.stream is not None:
        return _in_files(model, data.stream, _checked(model, *rows[0]), sample_weight), known
    if known is not None and weight is not None:
        known = _repeated(known, weight[data.valid])
    return _weighted(_checked(model, *rows[0]), None if weight is None else weight[data.train]), known


def refuse_rows_elsewhere(model: GenerativeModel, stream: Streamed) -> None:
    """Refuse to fit a family that looks at all rows at once to rows that are read batch by batch.

    Raises:
        InputError: such a family.
    """
    in_batches = model.strategy not in ("em", "closed_form", "boosting")
    whole = "fit it to data.split('train'), a sample, or to one file or array of them"
    told = f"{model.kind()}, which looks at all rows at once; {whole}"
    require(in_batches, "model", f"a family trained in batches, such as flow or vae, for rows that stay {stream.place}", told)


def _in_files(model: GenerativeModel, stream: Streamed, sample: Examples, sample_weight: Any) -> Examples:
    refuse_rows_elsewhere(model, stream)
    require(sample_weight is None, "sample_weight", f"nothing for rows that stay {stream.place}", "weights")

    def code(values: Any, labels: Any, what: str) -> tuple[Tensor, Tensor | None]:
        x, y = coded(Raw(what, values, labels), model.space, model.condition, missing=model.takes_missing, who=model.kind())
        found = _checked(model, x, y, least=1)
        return found.x, found.y

    return replace(sample, files=InFiles(stream, code))


def _checked(model: GenerativeModel, x: Any, y: Any, least: int = 2) -> Examples:
    x = as_tensor(x)
    if x.ndim and len(x) < least:
        raise InputError(f"x: got {len(x)} row{'s' * (len(x) != 1)}; need at least {least}")
    x = model.space.check(x, missing=model.takes_missing)
    require(not (x.is_floating_point() and bool(x.isnan().all())), "x", "an observed cell", "none: all cells are missing")
    if y is not None:
        y = as_tensor(y, "y")
        require(y.ndim > 0 and len(y) == len(x), "y", f"{len(x)} rows", f"{len(y) if y.ndim else 0} rows")
    if y is not None and model.condition is not None and not model.takes_null:
        gone = unlabelled(model.condition, y)
        hides = "a diffusion with backbone.condition_dropout above 0 learns p(x) from such rows"
        if bool(gone.any()):
            lost = f"none at row {int(gone.long().argmax())} ({int(gone.sum())} such rows)"
            raise InputError(f"y: expected a label in every row, got {lost}, which {model.kind()} cannot take; {hides}")
    return Examples(x, model.check_condition(y, len(x)))


def _weighted(rows: Examples, weight: Any) -> Examples:
    return rows if weight is None else replace(rows, weight=row_weights(weight, len(rows)))


def _repeated(rows: Examples, weight: Tensor) -> Examples | None:
    """As many rows, each as often as its weight says; None where none weighs anything."""
    if not weight.sum() > 0:
        return None
    x, y = rows.rows(resampled(weight, torch.arange(len(rows)), 0.5))
    return Examples(x, y)


def resampled(weight: Tensor, order: Tensor, u: float) -> Tensor:
    """N of N rows with E[copies of row i] = N w_i / Σ w: row order_k as often as points (u + j)/N fall on its share.

    Every row comes ⌊N w_i/Σ w⌋ or one more times, and with equal weights once, in the given order.

    Arguments:
        weight: (N,), at least 0.
        order: (N,), a permutation of the rows.
        u: uniform on [0, 1).

    Source: Kitagawa (1996), Journal of Computational and Graphical Statistics 5: systematic resampling.
    """
    share = weight[order].double().cumsum(0)
    n, points = len(order), torch.arange(len(order), dtype=torch.float64, device=order.device) + u
    found = torch.searchsorted(share * (n / share[-1]), points, right=True)
    last = weight[order].nonzero()[-1, 0]  # rounding must not choose a row of no weight behind it
    return order[found.clamp(max=last)]


def fingerprint(*examples: Examples | None) -> str:
    """sha256 of the rows' bytes, types and shapes."""
    digest = hashlib.sha256()
    for part in examples:
        if part is not None and part.files is not None:
            digest.update(part.files.stream.digest.encode())
        for tensor in (part.x, part.y, part.weight) if part is not None else ():
            if tensor is not None:
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()

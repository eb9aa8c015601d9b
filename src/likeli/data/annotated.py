"""Matrices of cells by genes: AnnData, in memory or as .h5ad, and sparse counts.

A large sparse matrix of counts is never written out as a whole: rows become tensors a batch at a time, and whatever else asks
for rows sees a sample of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from likeli.data.builtin.sources import Raw
from likeli.data.dataset import Fractions, split_rows
from likeli.data.frame import Frame
from likeli.data.infer import fit_labels, relabel
from likeli.data.readers.h5ad import read_h5ad
from likeli.data.readers.tables import from_pandas
from likeli.errors import InputError, nearest, require
from likeli.random import permutation
from likeli.spaces import Counts, Space
from likeli.spaces.arrays import MAX_DENSE_CELLS, as_tensor
from likeli.spaces.base import MAX_COUNT

FILE = re.compile(r"(?P<path>.+\.h5ad)(?::layer=(?P<layer>.+))?", re.IGNORECASE)
CELLS_OF_A_PART = 1 << 22  # of the sample: 32 MiB as whole numbers; up to this a sparse matrix is read as a dense one
CELLS_AT_ONCE = 1 << 21
FEWEST = 256  # rows of each part in the sample, however many columns


@dataclass(frozen=True)
class Annotated:
    """A matrix of rows by columns, and what is known of them.

    Arguments:
        name: for messages.
        x: (rows, columns), a CSR matrix or an array.
        columns: their names; none if empty.
        obs: a data frame with a line for each row, or None.
        layer: the name of the matrix, None for X.
        source: the text that reads it again, or None for one in memory.
    """

    name: str
    x: Any
    columns: tuple[str, ...] = ()
    obs: Any = None
    layer: str | None = None
    source: str | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def sparse(self) -> bool:
        """Whether it is too large to be written out, and stored so that it need not be."""
        return _is_sparse(self.x) and self.x.shape[0] * self.x.shape[1] > CELLS_OF_A_PART

    def dense(self, rows: Any = slice(None)) -> Tensor:
        """Some rows as a tensor, or all.

        Raises:
            InputError: more cells than may be written out.
        """
        part = self.x[rows]
        require(part.shape[0] * part.shape[1] <= MAX_DENSE_CELLS, self.name, f"at most {MAX_DENSE_CELLS} cells", part.shape)
        return as_tensor(part.toarray() if _is_sparse(part) else np.asarray(part), self.name)

    def labels(self, labels: Any) -> Any:
        """What `labels` names among the columns of obs, as cells; anything else as it is.

        Raises:
            InputError: no such column.
        """
        if not isinstance(labels, str):
            return labels
        known = [] if self.obs is None else [str(name) for name in self.obs.columns]
        told = f"a column of obs: {', '.join(known[:20]) or 'it has none'}{nearest(labels, known)}"
        require(known.count(labels) == 1, f"{self.name}: labels", told, labels)
        what = f"{self.name}: obs"
        cells = from_pandas(self.obs.iloc[:, [known.index(labels)]], what).pop(labels, what)
        return relabel(cells) if isinstance(cells, np.ndarray) else cells

    def counts(self) -> Annotated:
        """The same matrix, which is seen to hold counts.

        Raises:
            InputError: a cell that is below 0, fractional or not finite; its row and column are named.
        """
        values = self.x.data if _is_sparse(self.x) else np.asarray(self.x)
        with np.errstate(invalid="ignore"):
            wrong = ~((values >= 0) & (values <= MAX_COUNT) & (values == np.round(values)))
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            value, wide = values.flat[place], self.x.shape[1]
            row, column = divmod(place, wide)
            if _is_sparse(self.x):
                row, column = int(np.searchsorted(self.x.indptr, place, "right")) - 1, int(self.x.indices[place])
            where = f"{value:g} at row {row}, column {self.columns[column] if self.columns else column}"
            hint = "layer=NAME takes another matrix, and kind='real' the numbers as they are"
            raise InputError(f"{self.name}: expected counts, whole numbers from 0, got {where}; {hint}")
        require(values.size > 0 and bool(values.max() > 0), self.name, "a count above 0", "none")
        return self

    def chosen(self, space: Space) -> Annotated:
        """The columns of a model's space in its order, by name where it has names; others are left out with a warning.

        Raises:
            InputError: a column of the space is not there.
        """
        if not (space.names and self.columns) or space.names == self.columns:
            return self
        place = {name: i for i, name in enumerate(self.columns)}
        gone = [name for name in space.names if name not in place]
        if gone:
            many = f" and {len(gone) - 1} more" * (len(gone) > 1)
            near = nearest(gone[0], self.columns)
            raise InputError(f"{self.name}: expected the columns of the fit, got none called {gone[0]}{many}{near}")
        extra = len(self.columns) - len(space.names)
        if extra:
            told = f"{self.name}: left out, since the model does not know them: {extra} column{'s' * (extra > 1)}"
            warnings.warn(told, UserWarning, stacklevel=5)
        x = self.x[:, [place[name] for name in space.names]]
        return Annotated(self.name, x, space.names, self.obs, self.layer, self.source)

    def parts(self, space: Space, labels: Any = None) -> Iterator[Raw]:
        """Rows for a model that exists, some at a time where they are many, with their labels."""
        found, y = self.chosen(space), self.labels(labels)
        step = max(CELLS_AT_ONCE // found.x.shape[1], 1) if self.sparse else len(self)
        for first in range(0, len(self), step):
            rows = slice(first, first + step)
            yield Raw(self.name, found.dense(rows), None if y is None else y[rows])


@dataclass(frozen=True)
class SparseCounts:
    """Training rows that stay sparse, in a shuffled order.

    Arguments:
        found: the matrix.
        y: (rows,) labels, or None.
        training: the numbers of the training rows.
        digest: sha256 of the matrix.
    """

    found: Annotated
    y: Tensor | None
    training: Tensor
    digest: str
    place: ClassVar[str] = "sparse"

    def __len__(self) -> int:
        return len(self.training)

    @property
    def facts(self) -> dict[str, int]:
        """What a run says of it."""
        return {"nonzero": int(self.found.x.nnz)}

    def shuffled(
        self, seed: int, epoch: int, code: Callable[[Tensor | Frame, Any, str], tuple[Tensor, Tensor | None]]
    ) -> Callable[[slice], tuple[Tensor, Tensor | None]]:
        """Training rows a … b − 1 of an epoch's order, a function of (seed, epoch), when asked for `slice(a, b)`."""
        order = permutation(len(self), seed, epoch)

        def take(rows: slice) -> tuple[Tensor, Tensor | None]:
            index = self.training[order[rows]]
            return code(self.found.dense(index.numpy()).long(), None if self.y is None else self.y[index], self.found.name)

        return take

    def standardised(self, space: Space) -> Space:
        """The space: counts have no mean and scale."""
        return space


def find_annotated(source: Any, layer: str | None = None, kind: str | None = None) -> Annotated | None:
    """The matrix of an AnnData, of a .h5ad file, or a large sparse one of counts; None for a source of another kind.

    Arguments:
        source: as for `load_data`; `cells.h5ad:layer=NAME` says the layer too.
        layer: the name of the matrix in `layers`; X if not given.
        kind: as for `load_data`.

    Raises:
        InputError: damaged, no such layer, no rows or columns, names of columns that are not distinct.
        MissingExtra: anndata is not installed.
    """
    if isinstance(source, Annotated):
        return source
    if isinstance(source, (str, os.PathLike)):
        match = FILE.fullmatch(os.fspath(source))
        if match is None or not os.path.lexists(match["path"]) or os.path.isdir(match["path"]):
            return None
        path, layer = match["path"], layer or match["layer"]
        again = f"{path}:layer={layer}" if layer else path
        return _of_anndata(read_h5ad(path), layer, os.path.basename(path), again)
    if is_anndata(source):
        return _of_anndata(source, layer, "adata", None)
    if not _is_sparse(source) or not _holds_counts(source, kind):
        return None
    found = Annotated("sparse matrix", source.tocsr())
    return found if found.sparse else None


def is_anndata(source: Any) -> bool:
    """Whether it has what an AnnData has: X, layers, obs, obsm and var_names."""
    return all(hasattr(source, name) for name in ("layers", "obs", "obsm", "var_names")) and hasattr(source, "X")


def _holds_counts(x: Any, kind: str | None) -> bool:
    if kind is not None or x.dtype.kind not in "iu":
        return kind == "counts"
    many = x.shape[1] > 64 or 2 * x.nnz <= x.shape[0] * x.shape[1]  # as `Counts.recognise` has it
    return many and (x.nnz == 0 or x.min() >= 0)


def _is_sparse(x: Any) -> bool:
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(x)


def _of_anndata(adata: Any, layer: str | None, name: str, source: str | None) -> Annotated:
    known = [str(key) for key in adata.layers]
    listed = f"one of {', '.join(known)}{nearest(layer, known)}" if known else "nothing, since there are no layers"
    require(layer is None or layer in known, f"{name}: layer", listed, layer)
    x, what = (adata.X if layer is None else adata.layers[layer]), f"{name}, {'X' if layer is None else f'layer {layer}'}"
    require(x is not None, what, f"a matrix; layer= one of {', '.join(known) or 'none'}", "none")
    columns = tuple(str(column) for column in adata.var_names)
    require(len(columns) > 0, name, "at least one gene", "none")
    seen = sorted(columns)
    twice = next((a for a, b in pairwise(seen) if a == b), None)
    require(twice is None, f"{name}: var_names", "distinct names (adata.var_names_make_unique())", f"{twice} more than once")
    return Annotated(name if layer is None else what, _in_memory(x, what), columns, adata.obs, layer, source)


def _in_memory(x: Any, what: str) -> Any:
    """A matrix of an AnnData, also of one whose matrix stays in its file, as CSR or as an array."""
    x = x.to_memory() if hasattr(x, "to_memory") else x
    if _is_sparse(x):
        x = x.tocsr()
        if not x.has_canonical_format:
            x = x.copy()
            x.sum_duplicates()
        return x
    if not isinstance(x, np.ndarray):  # of a file that is open
        require(x.shape[0] * x.shape[1] <= MAX_DENSE_CELLS, what, f"at most {MAX_DENSE_CELLS} cells", x.shape)
        x = x[:]
    return np.asarray(x)


def read_annotated(found: Annotated, labels: Any, kind: str | None, seed: int, fractions: Fractions) -> Raw:
    """What `load_data` needs: all rows, or of counts that stay sparse a sample of each part and where all of them are.

    Raises:
        InputError: values that are no counts where no kind says otherwise; labels that are no column of obs.
    """
    y = found.labels(labels)
    if kind not in (None, "counts"):
        x = found.dense()
        names = list(found.columns) or [f"x{i}" for i in range(x.shape[1])]
        whole = [not x.is_floating_point()] * len(names)
        return Raw(found.name, Frame(names, list(x.double().numpy().T), whole), y, labelled=True)
    found.counts()
    space = Counts((found.x.shape[1],), found.columns)
    if not found.sparse:
        return Raw(found.name, found.dense().long(), y, space, "counts", labelled=True)
    n, size = len(found), max(CELLS_OF_A_PART // found.x.shape[1], FEWEST)
    split, told = split_rows(n, seed, fractions), list[str]()
    codes, condition = None, None
    if y is not None:
        codes, condition, told = fit_labels(y, n, split[0], f"{found.name}: labels")
    sample = [part[:size] for part in split]  # of rows in a random order
    rows, ends = torch.cat(sample), np.cumsum([0, *map(len, sample)])
    place = tuple(torch.arange(a, b) for a, b in pairwise(ends))
    seen = f"whatever else asks for rows sees a sample of {len(rows):,}"
    told.append(f"{found.name}: {n:,} rows of {found.x.shape[1]:,} counts stay sparse, read batch by batch; {seen}")
    return Raw(
        found.name, found.dense(rows.numpy()).long(), None if codes is None else codes[rows], space, "counts", condition,
        labelled=True, split=place, warnings=told, stream=SparseCounts(found, codes, split[0], _digest(found)),
    )  # fmt: skip


def _digest(found: Annotated) -> str:
    digest = hashlib.sha256("\n".join(found.columns).encode())
    for array in (found.x.indptr, found.x.indices, found.x.data):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

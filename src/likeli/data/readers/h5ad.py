"""AnnData files (.h5ad), through the package anndata."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from likeli.data.readers.npy import open_regular
from likeli.errors import InputError, MissingExtra, one_line


def read_h5ad(path: str | Path) -> Any:
    """The AnnData of a file, in memory; sparse matrices stay sparse.

    Raises:
        InputError: not there, damaged.
        MissingExtra: anndata is not installed.
    """
    with open_regular(path):
        pass
    anndata = need_anndata("reading .h5ad files")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return anndata.read_h5ad(path)
    except Exception as error:  # of many kinds, anndata's own and HDF5's
        raise InputError(f"{path}: cannot be read as .h5ad: {one_line(error, 200)}") from error


def write_h5ad(path: str | Path, adata: Any) -> None:
    """The AnnData as a file.

    Raises:
        InputError: something in it that no .h5ad can hold.
        MissingExtra: anndata is not installed.
    """
    anndata = need_anndata("writing .h5ad files")
    settings = getattr(anndata, "settings", None)  # pandas 3 has no other texts than those that older versions cannot hold
    texts = settings is not None and hasattr(settings, "allow_write_nullable_strings")
    try:
        with settings.override(allow_write_nullable_strings=True) if texts else nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_h5ad(path)
    except OSError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be written as .h5ad: {one_line(error, 200)}") from error


def write_matrix(path: str | Path, x: Tensor, names: Sequence[str], obs: Mapping[str, Sequence[Any]]) -> None:
    """Rows as an AnnData file: whole numbers as a sparse X, columns as var_names, and obs.

    Arguments:
        x: (rows, columns).
        names: of the columns; 0, 1, … if empty.
        obs: columns of obs, (rows,) each.
    """
    import pandas
    from scipy import sparse

    anndata = need_anndata("writing .h5ad files")
    values = x.cpu().numpy()
    kept = values if x.is_floating_point() else sparse.csr_matrix(values)
    rows = pandas.DataFrame(dict(obs), index=[str(i) for i in range(len(values))])
    var = pandas.DataFrame(index=[str(name) for name in names or range(values.shape[1])])
    write_h5ad(path, anndata.AnnData(kept, obs=rows, var=var))


def with_annotations(
    adata: Any,
    about: Mapping[str, Any],
    obs: Mapping[str, Any] | None = None,
    obsm: Mapping[str, np.ndarray] | None = None,
    layers: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """A copy of the AnnData with more in it; what has the same name is replaced.

    Arguments:
        about: what comes into uns["likeli"], beside what is there.
        obs: columns, (rows,) each; None stands for a number that does not exist.
        obsm: arrays (rows, …).
        layers: arrays (rows, columns).
    """
    adata = adata.copy()
    before = adata.uns.get("likeli")
    known = {k: v for k, v in about.items() if v is not None}
    adata.uns["likeli"] = known | ({**before, **known} if isinstance(before, Mapping) else {})
    for name, values in (obs or {}).items():
        adata.obs[name] = np.array([np.nan if v is None else v for v in values])
    for name, array in (obsm or {}).items():
        adata.obsm[name] = array
    for name, array in (layers or {}).items():
        adata.layers[name] = array
    return adata


def need_anndata(purpose: str) -> Any:
    """The package anndata.

    Raises:
        MissingExtra: it is not installed.
    """
    if find_spec("anndata") is None:
        raise MissingExtra("anndata", "anndata", purpose)
    import anndata

    return anndata

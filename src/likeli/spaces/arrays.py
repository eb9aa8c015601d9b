"""Anything array-like, as a tensor."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.errors import InputError, require

MAX_DENSE_CELLS = 2**27  # a sparse matrix is written out up to 1 GiB of float64
_KINDS = {"c": "complex numbers", "O": "an object array", "M": "dates", "m": "time spans", "V": "records"}
_KINDS |= {"S": "text", "U": "text"}
_HINTS = {
    "complex numbers": "give real and imaginary parts as columns",
    "dates": "load them as columns of a data frame or file",
    "time spans": "give numbers, such as seconds",
    "text": "load tables with text columns through load_data",
    "records": "give one plain column per field",
    "an object array": "give one number type, with NaN for a missing cell",
}


def as_tensor(x: Any, what: str = "x") -> Tensor:
    """x as a detached tensor of a number type; the dtype is kept where torch computes with it.

    Taken: tensors of any device, numpy arrays of any byte order, layout and precision, lists, masked arrays and pandas objects
    (a masked or NA cell becomes NaN), and sparse matrices of up to `MAX_DENSE_CELLS` cells.  An array is copied.

    Raises:
        InputError: not numbers.
    """
    if isinstance(x, Tensor):
        return _from_torch(x, what)
    if _is_sparse(x):
        require(x.shape[0] * x.shape[-1] <= MAX_DENSE_CELLS, what, f"at most {MAX_DENSE_CELLS} cells when dense", x.shape)
        return _from_numpy(x.toarray(), what)
    if isinstance(x, np.ma.MaskedArray):
        return _from_numpy(_unmask(x, what), what)
    if type(x).__module__.partition(".")[0] == "pandas":
        return _from_pandas(x, what)
    return _from_numpy(_to_numpy(x, what), what)


def row_weights(given: Any, rows: int) -> Tensor:
    """How often each of `rows` rows counts, (rows,) float64: a whole number stands for so many equal rows, 0 for none.

    Raises:
        InputError: another number of weights, one below 0 or not finite, or none above 0.
    """
    weight = as_tensor(given, "sample_weight").double()
    fits = tuple(weight.shape) == (rows,) and bool((weight.isfinite() & (weight >= 0)).all()) and bool((weight > 0).any())
    require(fits, "sample_weight", f"{rows} numbers of at least 0, one above it", f"shape {tuple(weight.shape)}")
    return weight


def _from_torch(x: Tensor, what: str) -> Tensor:
    if x.is_complex():
        raise _not_numbers(what, "complex numbers")
    require(x.device.type != "meta", what, "a tensor with values", "a tensor on the meta device")
    require(not x.is_nested, what, "rows of one length", "a nested tensor")
    x = x.detach()
    if x.layout is not torch.strided:
        require(x.numel() <= MAX_DENSE_CELLS, what, f"at most {MAX_DENSE_CELLS} cells when dense", tuple(x.shape))
        x = x.to_dense()
    if x.is_quantized:
        x = x.dequantize()
    if x.is_floating_point() and x.element_size() == 1:
        return x.float()
    wide = x.dtype in (torch.uint16, torch.uint32, torch.uint64)  # torch computes with none of these
    return _from_numpy(x.cpu().numpy(), what).to(x.device) if wide else x


def _is_sparse(x: Any) -> bool:
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(x)


def _unmask(x: np.ma.MaskedArray, what: str) -> np.ndarray:
    if x.dtype.kind not in "biuf":
        raise _not_numbers(what, _KINDS.get(x.dtype.kind, str(x.dtype)))
    return np.where(np.ma.getmaskarray(x), np.nan, x.data) if np.ma.is_masked(x) else np.asarray(x.data)


def _from_pandas(x: Any, what: str) -> Tensor:
    if x.ndim == 1:
        return _from_numpy(pandas_column(x, what), what)
    columns = [pandas_column(x.iloc[:, i], f"{what}, column {name}") for i, name in enumerate(x.columns)]
    return _from_numpy(np.stack(columns, 1) if columns else np.empty(x.shape), what)


def pandas_column(series: Any, what: str) -> np.ndarray:
    """A pandas Series (or Index) of numbers as an array, NA as NaN.

    Raises:
        InputError: not numbers.
    """
    kind = getattr(series.dtype, "kind", "O")
    if kind == "O" or kind not in "biuf":
        text = kind == "O" and any(isinstance(v, str) for v in series)
        raise _not_numbers(what, "text" if text else _KINDS.get(kind, str(series.dtype)))
    if series.isna().any():
        return series.to_numpy(np.float64, na_value=np.nan)
    plain = getattr(series.dtype, "numpy_dtype", None)  # before pandas 2.2 the array of a nullable type is one of objects
    return np.asarray(series.to_numpy(plain))


def _to_numpy(x: Any, what: str) -> np.ndarray:
    if isinstance(x, Iterator):
        raise InputError(f"{what}: expected an array, got a {type(x).__name__}; collect it first, such as np.stack(list(x))")
    if x is None or isinstance(x, (Mapping, Set)):
        raise InputError(f"{what}: expected an array, got {'nothing' if x is None else f'a {type(x).__name__}'}")
    if isinstance(x, (list, tuple)) and x and all(isinstance(row, Tensor) for row in x):
        x = [row.detach().cpu().numpy() for row in x]
    try:
        return np.asarray(x)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{what}: expected rows of one length, got rows that differ") from error


def _from_numpy(array: np.ndarray, what: str) -> Tensor:
    kind = array.dtype.kind
    if kind not in "biuf":
        raise _not_numbers(what, _KINDS.get(kind, str(array.dtype)))
    if kind == "u" and array.dtype.itemsize == 8:
        require(array.size == 0 or int(array.max()) < 2**63, what, "whole numbers below 2**63", "larger ones")
    name = array.dtype.newbyteorder("=").name
    wide = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}.get(name, name)
    if kind == "f" and array.dtype.itemsize > 8:
        wide = "float64"
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=wide, order="C", copy=True, subok=False))


def _not_numbers(what: str, kind: str) -> InputError:
    hint = _HINTS.get(kind)
    return InputError(f"{what}: expected real numbers, got {kind}" + (f"; {hint}" if hint else ""))

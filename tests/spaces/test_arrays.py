"""as_tensor: the same numbers whatever holds them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from likeli.errors import InputError
from likeli.spaces import arrays
from likeli.spaces.arrays import as_tensor

TRUTH = np.arange(12).reshape(4, 3)


@pytest.fixture
def memmap(tmp_path):
    np.save(tmp_path / "a.npy", TRUTH)
    return np.load(tmp_path / "a.npy", mmap_mode="r")


FORMS = {
    "int64": TRUTH,
    "uint8": TRUTH.astype(np.uint8),
    "uint16": TRUTH.astype(np.uint16),
    "uint32": TRUTH.astype(np.uint32),
    "uint64": TRUTH.astype(np.uint64),
    "float16": TRUTH.astype(np.float16),
    "big-endian float": TRUTH.astype(">f8"),
    "big-endian uint16": TRUTH.astype(">u2"),
    "longdouble": TRUTH.astype(np.longdouble),
    "fortran": np.asfortranarray(TRUTH),
    "negative strides": TRUTH[::-1, ::-1][::-1, ::-1],
    "step": np.repeat(TRUTH, 2, 0)[::2],
    "list": TRUTH.tolist(),
    "tuple of tensors": tuple(torch.tensor(r, dtype=torch.float32, requires_grad=True) for r in TRUTH),
    "masked, none hidden": np.ma.masked_array(TRUTH, mask=False),
    "requires_grad": torch.tensor(TRUTH, dtype=torch.float64, requires_grad=True),
    "torch uint16": torch.tensor(TRUTH).to(torch.uint16),
    "torch sparse": torch.tensor(TRUTH).to_sparse(),
    "torch float8": torch.tensor(TRUTH, dtype=torch.float32).to(torch.float8_e4m3fn),
    "scipy csr": scipy.sparse.csr_matrix(TRUTH),
    "scipy coo array": scipy.sparse.coo_array(TRUTH),
    "frame": pd.DataFrame(TRUTH),
    "nullable frame": pd.DataFrame(TRUTH).astype("Int64"),
    "matrix": np.matrix(TRUTH),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_numbers(name):
    got = as_tensor(FORMS[name])
    assert not got.requires_grad
    assert got.shape == TRUTH.shape
    np.testing.assert_array_equal(got.double().numpy(), TRUTH)
    (got + 1).sum(0)  # torch computes with the dtype


def test_a_read_only_memmap_is_copied(memmap):
    got = as_tensor(memmap)
    got[0, 0] = 99
    assert memmap[0, 0] == 0


def test_the_callers_array_is_not_shared():
    mine = TRUTH.astype(float)
    as_tensor(mine)[0, 0] = 99
    assert mine[0, 0] == 0


def test_hidden_cells_become_nan():
    masked = np.ma.masked_array(TRUTH, mask=TRUTH == 5)
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [0.5, np.nan], "c": pd.array([True, None], "boolean")})
    assert as_tensor(masked).isnan().nonzero().tolist() == [[1, 2]]
    assert as_tensor(frame).isnan().tolist() == [[False] * 3, [True] * 3]
    assert as_tensor(frame["a"]).isnan().tolist() == [False, True]


def test_bool_stays_bool_and_float32_stays_float32():
    assert as_tensor(TRUTH > 3).dtype == torch.bool
    assert as_tensor(TRUTH.astype(np.float32)).dtype == torch.float32


REFUSED = {
    "complex": (TRUTH + 1j, "complex"),
    "complex tensor": (torch.ones(2, dtype=torch.complex64), "complex"),
    "strings": (np.array([["a", "b"]]), "text"),
    "bytes": (np.array([[b"a"]]), "text"),
    "datetime": (np.array(["2020-01-01"], dtype="M8[D]"), "dates"),
    "timedelta": (np.array([1], dtype="m8[s]"), "time spans"),
    "structured": (np.zeros(3, dtype=[("a", "f8"), ("b", "i4")]), "records"),
    "object": (np.array([[1, None]], dtype=object), "object array.*NaN"),
    "ragged": ([[1, 2], [3]], "one length"),
    "generator": ((r for r in TRUTH), "generator; collect it"),
    "iterator": (iter([1, 2]), "collect it"),
    "nothing": (None, "nothing"),
    "dict": ({"a": [1]}, "a dict"),
    "set": ({1, 2}, "a set"),
    "text": ("0.5", "text"),
    "uint64 beyond int64": (np.array([2**64 - 1], dtype=np.uint64), r"2\*\*63"),
    "huge int list": ([2**70], "object array"),
    "frame with text": (pd.DataFrame({"a": [1.0], "b": ["x"]}), "column b: expected real numbers, got text"),
    "frame with dates": (pd.DataFrame({"d": pd.to_datetime(["2020-01-01"])}), "column d.*dates"),
    "categorical": (pd.DataFrame({"c": pd.Categorical(["u"])}), "column c.*text"),
    "masked text": (np.ma.masked_array(["a"], mask=[True]), "text"),
    "meta": (torch.empty(2, device="meta"), "meta device"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_numbers_is_refused_in_one_line(name):
    value, pattern = REFUSED[name]
    with pytest.raises(InputError, match=f"^values.*{pattern}") as caught:
        as_tensor(value, "values")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_sparse_matrix_too_large_to_write_out_is_refused(monkeypatch):
    monkeypatch.setattr(arrays, "MAX_DENSE_CELLS", 11)
    with pytest.raises(InputError, match="11 cells when dense"):
        as_tensor(scipy.sparse.csr_matrix(TRUTH))
    with pytest.raises(InputError, match="11 cells when dense"):
        as_tensor(torch.tensor(TRUTH).to_sparse())


def test_longdouble_beyond_float64_is_infinite_not_an_exception():
    assert as_tensor(np.array([np.longdouble("1e4000")])).isinf().all()

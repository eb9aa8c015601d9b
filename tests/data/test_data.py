"""load_data: the same rows in the same split from every form, and a space that fits them."""

from __future__ import annotations

import json
import math
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from likeli.config import build
from likeli.data import columns_of, describe_sources, load_data, load_rows, rebuild, split_rows
from likeli.data.readers.hub import from_dataset
from likeli.data.scales import standardisation
from likeli.errors import InputError, MissingExtra
from likeli.spaces import Binary, Counts, Pixels, Real, Space, Table, Tokens

RNG = np.random.default_rng(1)
X = RNG.normal(size=(50, 3)) * [1, 10, 0.1] + [5, 0, -2]


def table(tmp, text, name="a.csv"):
    (tmp / name).write_text(text, encoding="utf-8")
    return str(tmp / name)


# --- splits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 10, 1797])
@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (1 / 3, 1 / 3, 1 / 3)])
def test_a_split_is_disjoint_complete_and_a_function_of_the_seed(n, fractions):
    parts = split_rows(n, 7, fractions)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    for part, fraction in zip(parts, fractions):
        assert abs(len(part) - n * fraction) <= 1
    again, other = split_rows(n, 7, fractions), split_rows(n, 8, fractions)
    assert all(torch.equal(a, b) for a, b in zip(parts, again))
    if n > 10:
        assert not torch.equal(parts[0], other[0])


def test_each_row_is_equally_likely_to_be_held_out():
    """Hits of row 0 in the test part over 2,000 seeds: binomial(2000, 0.1), within 4 standard errors (6e-5)."""
    hits = sum(0 in split_rows(50, seed, (0.8, 0.1, 0.1))[2].tolist() for seed in range(2000))
    assert abs(hits - 200) < 4 * math.sqrt(2000 * 0.1 * 0.9)


def test_digits_are_scikit_learns():
    data = load_data("digits")
    bunch = load_digits()
    assert np.array_equal(data.x.numpy(), bunch.images)
    assert np.array_equal(data.y.numpy(), bunch.target)
    assert isinstance(data.space, Pixels)
    assert (data.space.levels, data.condition.classes) == (17, 10)
    assert [len(data.split(p)[0]) for p in ("train", "valid", "test")] == [1437, 180, 180]
    x, y = data.split("test")
    assert torch.equal(x, data.x[data.test])
    assert torch.equal(y, data.y[data.test])
    with pytest.raises(InputError, match="train, valid or test"):
        data.split("dev")


@pytest.mark.parametrize("source", ["digits", "gaussian:n=50,dims=3", "markov:n=50", "scenes:n=20,size=8", "checkerboard:n=50"])
def test_a_description_is_plain_json_and_rebuilds_the_same_data(source):
    data = load_data(source, seed=11, fractions=(0.5, 0.3, 0.2))
    text = json.dumps(data.describe(), allow_nan=False)
    again = rebuild(json.loads(text))
    assert again.fingerprint() == data.fingerprint()
    assert all(torch.equal(data.rows(p), again.rows(p)) for p in ("train", "valid", "test"))
    assert again.describe() == data.describe()
    assert build(json.loads(text)["space"], Space).shape == data.space.shape


def test_rebuilding_from_a_changed_file_is_refused(tmp_path):
    path = str(tmp_path / "x.npy")
    np.save(path, X)
    description = load_data(path).describe()
    np.save(tmp_path / "moved.npy", X)
    assert rebuild(description, str(tmp_path / "moved.npy")).fingerprint() == description["fingerprint"]
    assert rebuild(description, X).fingerprint() == description["fingerprint"]
    np.save(path, X + 1e-9)
    with pytest.raises(InputError, match="the source has changed"):
        rebuild(description)
    with pytest.raises(InputError, match="given in memory"):
        rebuild(load_data(X).describe())


def test_the_seed_of_a_toy_draws_other_rows():
    a, b = load_data("ring8", n=40, seed=0), load_data("ring8", N=40, seed=1)
    assert len(a) == len(b) == 40
    assert not torch.equal(a.x, b.x)
    assert a.truth is not None
    torch.testing.assert_close(a.truth.log_prob(a.x), b.truth.log_prob(a.x))


def test_the_global_random_state_is_left_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    load_data("scenes:n=10")
    load_data("gmm_draw:n=10")
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


# --- what the values are ---------------------------------------------------------------------------------------------------

GREY = RNG.integers(0, 256, (20, 6, 5), dtype=np.uint8)
KINDS = [
    (X, None, Real, (3,)),
    (X.astype(np.float32).reshape(25, 2, 3), None, Real, (2, 3)),
    (GREY, None, Pixels, (6, 5)),
    (GREY.reshape(10, 2, 6, 5), None, Pixels, (2, 6, 5)),
    (np.stack([GREY] * 3, -1), None, Pixels, (3, 6, 5)),
    (GREY > 99, None, Binary, (6, 5)),
    ((GREY > 99).astype(np.float32), None, Binary, (6, 5)),
    ((GREY > 99).astype(int).reshape(20, 30), None, Binary, (30,)),
    (GREY.reshape(20, 30), None, Table, (30,)),
    (GREY.reshape(20, 30) // 200 * 2, None, Counts, (30,)),
    (GREY.reshape(20, 30), "pixels", Pixels, (30,)),
    (GREY.reshape(20, 30), "tokens:256", Tokens, (30,)),
    (GREY.reshape(20, 30), "real", Real, (30,)),
    (GREY.reshape(20, 30).astype(int) - 128, None, Table, (30,)),
    (X, "table", Table, (3,)),
    (pd.DataFrame(X, columns=list("abc")), None, Real, (3,)),
    (pd.DataFrame({"a": X[:, 0], "b": [1, 2] * 25}), None, Table, (2,)),
    (pd.DataFrame({"a": X[:, 0], "b": ["u", "v"] * 25}), None, Table, (2,)),
    (pd.DataFrame({"a": X[:, 0], "b": [1, 2] * 25}), "real", Real, (2,)),
]


@pytest.mark.parametrize("source, kind, space, shape", KINDS)
def test_the_kind_is_inferred_and_can_be_overridden(source, kind, space, shape):
    data = load_data(source, kind=kind)
    assert type(data.space) is space
    assert data.space.shape == shape
    assert data.x.shape == (len(source), *shape)
    data.space.check(data.x)


def test_scaled_pixels_and_moved_channels_are_told():
    for written in (GREY / 255, GREY / 127.5 - 1, GREY * 1.0, (GREY / 255).reshape(len(GREY), -1)):
        assert any("look like pixels" in w for w in load_data(written).warnings)
    assert load_data(RNG.random((20, 6, 5))).warnings == []
    data = load_data(np.stack([GREY] * 3, -1))
    assert np.array_equal(data.x[:, 1].numpy(), GREY)
    assert any("channels were moved to the front" in w for w in data.warnings)


def test_statistics_come_from_the_training_rows():
    data = load_data(X, seed=5)
    train = data.split("train")[0]
    np.testing.assert_allclose(data.space.mean, train.mean(0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(data.space.scale, train.std(0, correction=0), rtol=1e-13)
    u = data.space.to_model(train, torch.float64)
    assert u.mean(0).abs().max() < 1e-12
    image = load_data(X.reshape(25, 2, 3))
    assert image.space.mean == pytest.approx(image.split("train")[0].mean().item(), rel=1e-12)
    assert image.space.scale == pytest.approx(image.split("train")[0].std(correction=0).item(), rel=1e-12)


@pytest.mark.parametrize("offset, scale", [(0, 1), (1e8, 1), (1e8, 1e-3), (0, 1e-20), (0, 1e-170), (0, 1e140), (-1e15, 10)])
def test_moments_lose_no_digits(offset, scale):
    """Against exact rational arithmetic on the same float64 numbers."""
    from fractions import Fraction

    x = (torch.from_numpy(RNG.normal(size=(40, 1))) * scale + offset).double()
    exact = [Fraction(v) for v in x[:, 0].tolist()]
    mean = sum(exact) / 40
    variance = sum((v - mean) ** 2 for v in exact) / 40
    got_mean, got_scale, constant = standardisation(x)
    assert not constant.any()
    assert abs(Fraction(got_mean.item()) - mean) <= Fraction(2**-50) * max(abs(v) for v in exact)
    ratio = float(Fraction(got_scale.item()) ** 2 / variance)
    resolution = 2**-52 * abs(offset) / scale  # of the mean, in standard deviations
    assert ratio == pytest.approx(1, abs=1e-13 + 10 * resolution**2 + 1e-12)


def test_moments_leave_missing_cells_out():
    x = torch.tensor([[1.0, math.nan, 7], [3, math.nan, 7], [math.nan, math.nan, 7]], dtype=torch.float64)
    mean, scale, constant = standardisation(x)
    assert mean.tolist() == [2, 0, 7]
    assert scale.tolist() == [1, 1, 1]
    assert constant.tolist() == [False, True, True]


def test_missing_cells_are_kept_and_refused_by_line(tmp_path):
    text = "a,b\n" + "".join(f"{i}.5,{i % 3}.25\n" for i in range(60)) + "7.5,?\n8.5,2.5\n"
    data = load_data(table(tmp_path, text))
    assert data.x.isnan().nonzero().tolist() == [[60, 1]]
    with pytest.raises(InputError, match=r"a\.csv: line 62, column b is missing \(1 such cell\), which vae cannot take"):
        data.refuse_missing("vae")
    load_data(X).refuse_missing("vae")


# --- rows for a model that exists -------------------------------------------------------------------------------------------


def test_rows_are_read_as_the_model_codes_them(tmp_path):
    data = load_data(table(tmp_path, "h,c,y\n" + "1.5,u,no\n2.5,v,yes\n3.5,w,no\n" * 9), labels="y")
    path = table(tmp_path, "y,extra,c,h\nyes,9,w,7.5\n", "b.csv")
    x, y = load_rows(path, data.space, condition=data.condition, labels="y")
    assert x.tolist() == [[7.5, 2]]
    assert y.tolist() == [1]
    assert load_rows(path, data.space)[1] is None
    with pytest.raises(InputError, match="unknown category 'z'"):
        load_rows(table(tmp_path, "c,h\nz,1.5\n", "b.csv"), data.space)
    with pytest.raises(InputError, match=r"line 2, column h is missing.*gmm0 cannot take"):
        load_rows(table(tmp_path, "c,h\nu,\n", "b.csv"), data.space, missing=False, who="gmm0")
    with pytest.raises(InputError, match="expected one of no, yes, got 'maybe'"):
        load_rows(table(tmp_path, "c,h,y\nu,1.5,maybe\n", "b.csv"), data.space, condition=data.condition, labels="y")


def test_real_columns_are_matched_by_name(tmp_path):
    data = load_data(pd.DataFrame(X, columns=list("abc")))
    path = table(tmp_path, "c,a,z,b\n3,1,9,2\n", "b.csv")
    assert load_rows(path, data.space)[0].tolist() == [[1, 2, 3]]
    with pytest.raises(InputError, match=r"shape \(rows, 3\), got shape \(1, 2\)"):
        load_rows(table(tmp_path, "c,a\n3,1\n", "b.csv"), data.space)


def test_text_in_order_and_as_the_model_spells_it(tmp_path):
    text = "the quick brown fox\n" * 30 + "the"
    path = table(tmp_path, text.replace("\n", "\r\n"), "a.txt")
    data = load_data(path, length=20)
    assert "".join(data.space.decode(data.x)) == text[:480] + text[483:]  # 483, 60 and 60 characters are for the parts
    assert data.warnings == [f"{path}: 3 symbols at the ends of the parts do not fill a window and were left out"]
    assert torch.equal(torch.cat([data.train, data.valid, data.test]), torch.arange(30))
    assert data.describe()["source"] == f"{path}:length=20"
    assert rebuild(data.describe()).fingerprint() == data.fingerprint()
    other = table(tmp_path, "fox the brown quick\n", "b.txt")
    assert torch.equal(load_rows(other, data.space)[0], load_rows(other, data.space)[0])
    assert columns_of(data.x[:1], data.space) == {"text": ["the quick brown fox\n"]}
    with pytest.raises(InputError, match="line 1, column 3: character 'Z' is not among the 17"):
        load_rows(table(tmp_path, "foZ the brown quick\n", "b.txt"), data.space)


# --- pictures ---------------------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures(tmp_path):
    colour = RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
    for i, picture in enumerate(colour):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "ab"[i % 2] / f"{i}.{['png', 'bmp', 'webp'][i % 3]}", lossless=True)
    (tmp_path / "a" / "notes.md").write_text("not a picture")
    data = load_data(str(tmp_path))
    order = [0, 2, 4, 1, 3, 5]
    assert np.array_equal(data.x.numpy(), colour[order].transpose(0, 3, 1, 2))
    assert data.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.condition.names == ("a", "b")
    assert rebuild(data.describe()).fingerprint() == data.fingerprint()


def test_grey_pictures_have_no_channel_axis(tmp_path):
    for i in range(12):
        Image.fromarray(GREY[i]).save(tmp_path / f"{i:02}.png")
    data = load_data(str(tmp_path))
    assert np.array_equal(data.x.numpy(), GREY[:12])
    assert data.y is None


# --- the hub ----------------------------------------------------------------------------------------------------------------


def test_the_hub_without_datasets_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"datasets: pip install 'likeli\[data\]'"):
        load_data("hf:some/name")
    with pytest.raises(InputError, match=r"unknown option 'spilt'.*did you mean split"):
        load_data("hf:some/name:spilt=train")


def test_a_hub_data_set_of_pictures_or_columns():
    """The library's Dataset stood in for by the four things that are used of it."""

    class Stand(list):
        def __getitem__(self, key):
            return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    rows = Stand({"image": Image.fromarray(GREY[i]), "label": i % 2} for i in range(20))
    label = types.new_class("ClassLabel")()
    label.names = ["even", "odd"]
    rows.features = {"image": types.new_class("Image")(), "label": label}
    raw = from_dataset(rows, "hf:x")
    assert np.array_equal(raw.values.numpy(), GREY)
    assert raw.y.tolist() == [0, 1] * 10
    assert load_data(raw).condition.names == ("even", "odd")
    frame = Stand()
    frame.features, frame.to_pandas = {"a": object()}, lambda: pd.DataFrame(X)
    assert load_data(from_dataset(frame, "hf:y")).x.shape == (50, 3)


def test_sources_can_be_listed():
    listed = {s["name"]: s for s in describe_sources()}
    assert {"digits", "gaussian", "ring8", "checkerboard", "ppca_draw", "gmm_draw", "markov", "scenes"} <= set(listed)
    assert listed["ring8"]["truth"]
    assert listed["gaussian"]["options"] == {"n": 10_000, "dims": 2}
    json.dumps(describe_sources())
    assert all(s["about"] for s in listed.values())

"""One table or one set of rows ends in the same types, whoever reads it, and what was guessed is said."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

import likeli
from likeli.errors import InputError

N = 60
RNG = np.random.default_rng(0)
NUMBERS = RNG.integers(0, 50, N)
COLUMNS = {
    "whole with gaps, Int64": pd.array([None if i % 7 == 0 else int(v) for i, v in enumerate(NUMBERS)], dtype="Int64"),
    "whole with gaps, decimals": np.where(np.arange(N) % 7 == 0, np.nan, NUMBERS.astype(float)),
    "bool": RNG.random(N) < 0.5,
    "NA as a text": RNG.choice(["NA", "EU", "US"], N),
    "dates as texts": pd.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d"),
    "whole": NUMBERS,
    "decimals": RNG.normal(size=N),
}
EXPECTED = {
    "whole with gaps, Int64": ("integer", ""),
    "whole with gaps, decimals": ("integer", "whole numbers beside missing cells were taken as integers"),
    "bool": ("boolean", ""),
    "NA as a text": ("categorical", "missing in some rows"),
    "dates as texts": ("date", "dates were taken as whole days since 1970-01-01"),
    "whole": ("integer", ""),
    "decimals": ("real", ""),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table(name, tmp_path):
    frame = pd.DataFrame({"a": COLUMNS[name], "b": RNG.normal(size=N), "c": RNG.choice(["u", "v"], N)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    read = [likeli.load_data(source) for source in (frame, tmp_path / "t.csv", tmp_path / "t.parquet")]
    kind, told = EXPECTED[name]
    for data in read:
        assert data.space.columns[0].type == kind
        assert not told or any(told in w for w in data.warnings)
        assert torch.equal(data.x.nan_to_num(-1), read[0].x.nan_to_num(-1)) or name == "decimals"


def test_a_data_set_of_tensors():
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    data = likeli.load_data(TensorDataset(x, y))
    assert torch.equal(data.x, x) and torch.equal(data.y, y) and data.condition.classes == 2
    assert likeli.load_data(TensorDataset(x)).y is None
    with pytest.raises(InputError, match="TensorDataset of rows, or of rows and labels"):
        likeli.load_data(TensorDataset(x, y, y))


@pytest.mark.parametrize("make, words", [
    (lambda s: likeli.MarkovHVAE(s, hidden=(-1,)), "hidden: expected widths of at least 1"),
    (lambda s: likeli.AE(s, dropout=2.0), "dropout: expected a probability below 1"),
    (lambda s: likeli.AE(s, hidden=2**62), "hidden: expected whole numbers of at most"),
    (lambda s: likeli.VAE(s, 2**62), "latent_dim: expected whole numbers of at most"),
    (lambda s: likeli.DDPM(s, steps=2**62), "steps: expected whole numbers of at most"),
    (lambda s: likeli.VDM(s, torch.ones(2)), "backbone: expected"),
    (lambda s: likeli.AE(s, hidden=(2**31, 2**31)), "ae: expected sizes that fit into memory, got .*hidden"),
])  # fmt: skip
def test_arguments_that_cannot_be_are_one_line(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make(likeli.Real((3,)))
    assert "\n" not in str(caught.value)


def test_an_array_of_whole_numbers_is_what_its_frame_is():
    """Their law is theirs: columns 40 ± 1, which no negative binomial can be, as its variance is above its mean."""
    x = (40 + RNG.normal(size=(400, 3))).round().astype(np.int64)
    of_array, of_frame = likeli.load_data(x), likeli.load_data(pd.DataFrame(x))
    assert of_array.kind == of_frame.kind == "table"
    model = likeli.Independent(of_array.space)
    likeli.fit(model, of_array, progress=False)
    entropy = 3 * (0.5 * np.log(2 * np.pi * np.e))  # of the normal; the sum of a rounded one's bins is within 0.01 of it
    rows = model.log_likelihood(of_array.split("test")[0]).value
    assert abs(-rows.mean() - entropy) < 4 * rows.std() / len(rows) ** 0.5
    assert likeli.load_data(RNG.poisson(0.3, (50, 3))).kind == "counts"

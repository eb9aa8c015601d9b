"""Columns of samples beside those of the data: what differs is starred, what is missing is left out."""

import math

import torch

import likeli
from likeli.evaluation.two_sample import marginals
from likeli.spaces import Pixels, Real, Tokens


def test_means_and_stars_follow_the_rows():
    """Column b of the samples lies 0.5 above the data's, 11 standard errors; a is the same draw turned round."""
    g = torch.Generator().manual_seed(0)
    data = torch.randn(1000, 2, generator=g)
    samples = torch.stack([data[:, 0].flip(0), data[:, 1] + 0.5], 1)
    data[:10, 0] = math.nan
    head, a, b = marginals({"held-out data": data, "vae": samples}, Real((2,), names=("a", "b")))
    assert head == ["column", "held-out data", "vae"]
    seen = data[10:, 0].double()
    assert a[:2] == ["a", f"{seen.mean():.4g} ({seen.std():.3g})"]
    assert not a[2].endswith("*")
    assert b[2] == f"{samples[:, 1].double().mean():.4g} ({samples[:, 1].double().std():.3g}) *"


def test_false_alarms_are_as_rare_as_four_standard_errors():
    """Of 2,000 columns with equal truth 0.34 are starred on the average (Student's t, 60 degrees): eight in less than 1e-8."""
    g = torch.Generator().manual_seed(1)
    stars = 0
    for _ in range(50):
        lines = marginals({"a": torch.randn(50, 40, generator=g), "b": torch.randn(500, 40, generator=g)}, Real((40,)))
        stars += sum(line[2].endswith("*") for line in lines[1:])
    assert stars < 8


def test_categories_are_shares_of_the_datas_commonest(tmp_path):
    rows = "\n".join(["city,age", *(f"{'Rome' if i % 4 else 'Oslo'},{i / 7}" for i in range(400))])
    (tmp_path / "t.csv").write_text(rows)
    data = likeli.load_data(tmp_path / "t.csv")
    other = data.x.clone()
    other[:, 0] = data.x[:, 0].flip(0).roll(1)
    lines = marginals({"data": data.x, "same": other, "one": data.x[:1].expand(400, -1)}, data.space)
    assert lines[1] == ["city = Rome", "75.0 %", "75.0 %", "0.0 % *"]
    assert lines[2][0] == "age"


def test_what_is_no_table_has_no_columns():
    assert marginals({"a": torch.zeros(3, 2, 2)}, Pixels((2, 2))) == []
    assert marginals({"a": torch.zeros(3, 41)}, Real((41,))) == []
    assert marginals({"a": torch.zeros(3, 4, dtype=torch.long)}, Tokens(4, 3)) == []

"""Spaces: what goes in comes out, and the log-Jacobian is the Jacobian's logarithm."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import likeli
from likeli.config import build, describe
from likeli.errors import InputError
from likeli.random import Ambient, Replay, seeded
from likeli.spaces import (
    Binary,
    BytePairs,
    Bytes,
    Characters,
    Column,
    Counts,
    Gaussian,
    Labels,
    Marginal,
    MixtureDensity,
    Pixels,
    Real,
    Space,
    StudentT,
    Table,
    Tokens,
)

TABLE = Table((
    Column("height", "real", mean=170.0, scale=8.0),
    Column("age", "integer", mean=40.5, scale=13.0, missing=True),
    Column("job", "categorical", categories=("clerk", "guard", "smith"), missing=True),
))
NUMBERS = Table((Column("r", "real", mean=-3.0, scale=0.25), Column("i", "integer", mean=1e5, scale=4e3)))
SPAN = NUMBERS.columns[0].marginal.high[-1] - NUMBERS.columns[0].marginal.low[0]
SPACES = {
    "real": Real((3,), mean=(1.0, -2.0, 3.0), scale=(0.5, 2.0, 10.0), names=("a", "b", "c")),
    "real image": Real((2, 2), mean=0.5, scale=0.25),
    "pixels17": Pixels((2, 3), 17),
    "pixels256": Pixels((3, 2, 2)),
    "pixels65536": Pixels((4,), 65536),
    "binary": Binary((5,)),
    "counts": Counts((4,)),
    "numbers": NUMBERS,
}


def values_in(space: Space, n: int = 4000) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    if isinstance(space, Pixels):
        return torch.randint(space.levels, (n, *space.shape), generator=g)
    if isinstance(space, Counts):
        return (10 ** (5 * torch.rand(n, *space.shape, generator=g, dtype=torch.float64))).long() - 1
    u = torch.randn(n, *space.shape, generator=g, dtype=torch.float64)
    if isinstance(space, Table):
        x = u * torch.tensor([c.scale for c in space.columns]) + torch.tensor([c.mean for c in space.columns])
        return torch.where(space.discrete, x.round(), x)
    return u * space.unit + space._mean


def edges(n: int, space: Space, dtype: torch.dtype) -> torch.Tensor:
    """Dequantisation noise that stresses the ends of the bins: exactly 0, the largest float below 1, and between."""
    choices = torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2, 0.5, 0.123], dtype=dtype)
    return choices[torch.randint(4, (n, *space.shape), generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPACES)
def test_from_model_inverts_continuous(name, dtype):
    space = SPACES[name]
    x = space.check(values_in(space))
    back = space.from_model(space.continuous(x, Replay([edges(len(x), space, dtype)]), dtype)[0])
    eps = torch.finfo(dtype).eps
    if space.measure == "mass":
        fine = 2 * eps * (1 + x) * (1 + x).double().log() > 2**-10 if isinstance(space, Counts) else torch.zeros(x.shape)
        assert ((back - x).abs() <= fine.long()).all()  # by one where a count is finer than the digits of log(1 + x)
        return
    if isinstance(space, Table):
        u, log_slope = space.marginals.scale(x, torch.tensor(0.5))
        error = (2 * eps * (1 + u.abs()) + 1e-13) * (-log_slope).exp()  # roundings of u, and Φ's own, at the slope of x
        whole = 0 if dtype == torch.float64 else 1 + 2 * error
        assert ((back - x).abs() <= torch.where(space.discrete, whole, 4 * error)).all()
        return
    # one rounding of u (|u| < 6 here) and, in the user's units, one of the result
    assert ((back.double() - x).abs() <= eps * (6 * space.unit + x.abs())).all()


@pytest.mark.parametrize("name", SPACES)
def test_log_det_is_that_of_autograds_jacobian(name):
    space = SPACES[name]
    for row in space.check(values_in(space, 5)):
        noise = torch.full((1, *space.shape), 0.3, dtype=torch.float64)

        def to_u(x, noise=noise):
            return space.continuous(x[None], Replay([noise]), torch.float64)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(to_u, row.double()).flatten(1)
        expected = torch.linalg.slogdet(jacobian)[1]
        got = space.continuous(row[None], Replay([noise]), torch.float64)[1][0]
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "space, support",
    [(Pixels((1,), 17), 17), (Binary((1,)), 2), (Counts((1,)), 4000), (Table((Column("i", "integer", 3.0, 2.0),)), 60)],
)
def test_a_density_of_mass_one_in_model_units_gives_a_mass_of_one_in_users_units(space, support):
    """Σ_x ∫₀¹ p_u(u(x+n)) |du/dx| dn = ∫ p_u over u's range, by the midpoint rule (error O(h²))."""
    n = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    x = torch.arange(support, dtype=torch.float64).repeat_interleave(400)[:, None]
    if isinstance(space, Table):
        x = x - 27
    u, log_det = space.continuous(x, Replay([n.repeat(support)[:, None]]), torch.float64)
    if isinstance(space, Pixels):
        log_p = torch.full((len(u),), -math.log(2.0), dtype=torch.float64)  # uniform on [-1, 1]
    elif isinstance(space, Counts):
        log_p = -u[:, 0]  # Exp(1) on u > 0
    else:
        log_p = -0.5 * u[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
    total = (log_p + log_det).exp().sum() / 400
    missing = 1 / (1 + support) if isinstance(space, Counts) else 0.0  # P(u > log(1 + support)) under Exp(1)
    if isinstance(space, Table):  # Φ(u) at the ends of the grid is what the marginal leaves beyond them
        law = space.columns[0].marginal
        span = law.high[-1] - law.low[0] + 1
        missing = sum(law.escape / 2 / (1 + d / span) for d in (law.low[0] + 27, 32 - law.high[-1]))
    assert total.item() == pytest.approx(1 - missing, abs=2e-6)


def test_missing_cells_stay_missing_and_add_nothing_to_the_jacobian():
    x = torch.tensor([[1.0, math.nan, 3.0]], dtype=torch.float64)
    space = SPACES["real"]
    u, log_det = space.continuous(x, Ambient(x), torch.float64)
    assert u.isnan().tolist() == [[False, True, False]]
    assert log_det.item() == pytest.approx(-math.log(0.5) - math.log(10.0), rel=1e-12)
    x = torch.tensor([[1.0, math.nan]])
    u, log_det = NUMBERS.continuous(x, Ambient(x), torch.float64)
    assert u.isnan().tolist() == [[False, True]]
    log_p = NUMBERS.columns[0].marginal.escape / 2 / (1 + (1 - NUMBERS.columns[0].marginal.high[-1]) / SPAN) ** 2 / SPAN
    assert log_det.item() == pytest.approx(math.log(log_p) + 0.5 * u[0, 0].item() ** 2 + 0.5 * math.log(2 * math.pi), rel=1e-9)


@pytest.mark.parametrize("offset, scale", [(1e8, 1.0), (1e8, 1e-3), (0.0, 1e-20), (0.0, 1e30), (-1e12, 5.0)])
def test_offset_and_scale_cost_no_digits(offset, scale):
    """float64 resolves offset·2⁻⁵³; a float32 code u loses 2⁻²³|u| of a standard deviation, whatever the offset."""
    space = Real((2,), mean=offset, scale=scale)
    u = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = space.check(u * scale + offset)
    seen = space.to_model(x)
    assert seen.dtype == torch.float32
    resolution = abs(offset) * 2**-52 / scale
    assert ((seen.double() - u).abs() <= resolution + 2**-23 * u.abs() + 1e-15).all()
    back = space.from_model(seen).double()
    assert ((back - x).abs() / scale <= resolution + 2**-22 * (1 + u.abs())).all()


def test_what_a_float32_network_sees_of_a_table():
    x = TABLE.check([[178.0, 40, 2], [170.0, math.nan, 0], [162, 53, math.nan]], missing=True)
    expected = [[1, -0.5 / 13, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0, 0], [-1, 12.5 / 13, 0, 0, 0, 0, 1]]
    torch.testing.assert_close(TABLE.to_model(x), torch.tensor(expected), atol=0.05, rtol=0)  # of a normal: in 32 cells
    assert TABLE.model_shape == (7,)
    assert TABLE.measure == "mixed"
    assert NUMBERS.measure == "mixed"
    assert Table((Column("a"),)).measure == "density"
    assert Table((TABLE.columns[2],)).measure == "mass"


def test_a_category_is_an_interval_of_its_mass():
    """Under N(0, I) the bound of a category is log of its mass, whatever the noise."""
    for n in (0.0, 0.3, 1.0):
        x = torch.tensor([[170.0, 40.0, 1.0]], dtype=torch.float64)
        u, log_det = TABLE.continuous(x, Replay([torch.full((1, 3), n, dtype=torch.float64)]), torch.float64)
        expected = sum(math.log(p) for p in (1 / 3, mass_of(TABLE.columns[0], 170.0), mass_of(TABLE.columns[1], 40.0)))
        log_p = log_det - 0.5 * (u.square() + math.log(2 * math.pi)).sum(1)
        assert log_p.item() == pytest.approx(expected, rel=1e-9)
        assert TABLE.from_model(u)[0, 2] == 1


def mass_of(column: Column, x: float) -> float:
    """The density of a real, the mass of a whole number, by looking it up."""
    law, whole = column.marginal, column.type != "real"
    k = next(k for k, high in enumerate(law.high) if x <= high)
    return (law.mass[k] - law.escape / 2 * ((k == 0) + (k == len(law.mass) - 1))) / (law.high[k] - law.low[k] + whole)


def test_a_table_reads_and_writes_named_columns():
    ages = pd.array([30, None, 50], dtype="Int64")
    frame = pd.DataFrame({"job": [" smith", "?", "guard"], "age": ages, "height": [1.5, 2, 3]})
    x = TABLE.check(frame, missing=True)
    assert torch.equal(x.isnan(), torch.tensor([[False] * 3, [False, True, True], [False] * 3]))
    assert x[0].tolist() == [1.5, 30, 2]
    assert TABLE.decode(x) == {"height": [1.5, 2, 3], "age": [30, None, 50], "job": ["smith", None, "guard"]}
    assert torch.equal(TABLE.encode(TABLE.decode(x)).nan_to_num(-9), x.nan_to_num(-9))


REFUSED = [
    (SPACES["real"], [[1, 2, math.nan]], "row 0, column c.*|got nan at row 0, column c"),
    (SPACES["real"], [[1, 2, 3], [1, -math.inf, 3]], "finite numbers, got -inf at row 1, column b"),
    (SPACES["real"], [[1, 2, 3], [1, 1e300, 3]], "fit float32.*1e\\+300 at row 1, column b"),
    (SPACES["real"], [1.0, 2.0, 3.0], "a batch of.*one example"),
    (SPACES["real"], np.zeros((60, 7)), r"shape \(rows, 3\), got shape \(60, 7\)"),
    (SPACES["real"], np.zeros((0, 3)), "at least one row"),
    (SPACES["real"], 3.0, r"got shape \(\)"),
    (SPACES["pixels17"], np.full((2, 2, 3), 17), "0 to 16, got 17 at row 0, column 0, 0"),
    (SPACES["pixels17"], np.full((2, 2, 3), 0.5), "whole numbers"),
    (SPACES["pixels17"], np.full((2, 2, 3), math.nan), "whole numbers.*nan"),
    (SPACES["pixels17"], np.full((2, 2, 3), 1e300), r"whole numbers.*1e\+300"),
    (SPACES["binary"], np.full((2, 5), 2), "0 to 1, got 2"),
    (SPACES["counts"], np.full((2, 4), -1), "whole numbers from 0, got -1"),
    (SPACES["counts"], np.full((2, 4), math.inf), "whole numbers from 0, got inf"),
    (Tokens(3, 4), [[0, 1, 4]], "symbols from 0 to 3, got 4 at row 0"),
    (Labels(10), [0, 10], "labels from 0 to 9, got 10 at row 1"),
    (Labels(10), [0, 10**9], r"got 1e\+09"),
    (Labels(10), [0.5], "labels from 0 to 9, got 0.5"),
    (Labels(10), [math.nan], "got nan"),
    (Labels(10), [-1], "got -1"),
    (Labels(2), [[0.5, 0.6]], "sum to 1"),
    (TABLE, [[170.0, 40.5, 0]], "whole numbers, got 40.5 at row 0, column age"),
    (TABLE, [[170.0, 40, 3]], "codes from 0 to 2, got 3 at row 0, column job"),
    (TABLE, [[170.0, 40, math.nan]], "a value in every cell.*row 0, column job"),
    (TABLE, [[math.inf, 40, 1]], "inf at row 0, column height"),
    (TABLE, pd.DataFrame({"height": [1.0], "age": [1], "job": ["smiht"]}), "column job, row 0: unknown.*did you mean smith"),
    (TABLE, {"height": [1.0], "aeg": [1], "job": ["smith"]}, "a column age.*did you mean aeg"),
    (TABLE, {"height": [1.0], "age": ["x"], "job": ["smith"]}, "column age: expected real numbers"),
    (TABLE, {"height": [1.0, 2.0], "age": [1], "job": ["smith"]}, "one length"),
]


@pytest.mark.parametrize("space, x, pattern", REFUSED)
def test_values_outside_are_refused_by_row_and_column(space, x, pattern):
    with pytest.raises(InputError, match=pattern) as caught:
        space.check(x)
    assert "\n" not in str(caught.value)
    assert 10 < len(str(caught.value)) < 600


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32])
def test_the_range_check_does_not_wrap_round_in_a_narrow_type(dtype):
    x = torch.tensor([[0, 255]]).to(dtype)
    assert Pixels((2,), 256).check(x).tolist() == [[0, 255]]
    assert Pixels((2,), 65536).check(x).tolist() == [[0, 255]]
    assert Tokens(2, 300).check(x).tolist() == [[0, 255]]
    assert Counts((2,)).check(x).tolist() == [[0, 255]]
    with pytest.raises(InputError, match="got 255 at row 0"):
        Pixels((2,), 255).check(x)


TEXTS = [
    Tokens(3, 258, BytePairs(((97, 98),)), ends=True), Tokens(2, 256, Bytes()), Tokens(2, 3, Characters("a?é", "?")),
]  # fmt: skip


@pytest.mark.parametrize("space", [*SPACES.values(), TABLE, Tokens(3, 4, "abcd"), *TEXTS, Labels(3, ("x", "y", "z"))])
def test_a_space_is_plain_json(space):
    text = json.dumps(describe(space), allow_nan=False)
    again = build(json.loads(text), Space)
    assert describe(again) == describe(space)
    assert again.model_shape == space.model_shape


@pytest.mark.parametrize("bad", [
    {"columns": ()},
    {"columns": (Column("a"), Column("a"))},
])
def test_tables_that_cannot_be(bad):
    with pytest.raises(InputError):
        Table(**bad)


@pytest.mark.parametrize("bad", [
    {"name": "a", "type": "categorical"},
    {"name": "a", "type": "real", "categories": ("x",)},
    {"name": "a", "type": "categorical", "categories": ("x", "x")},
    {"name": "a", "scale": 0.0},
    {"name": "a", "type": "time"},
])
def test_columns_that_cannot_be(bad):
    with pytest.raises(InputError):
        Column(**bad)


def test_dequantisation_noise_is_uniform_in_its_bin():
    """Mean and variance of n over 10⁵ draws within 5 standard errors (false alarm below 10⁻⁵)."""
    space, x = Pixels((1,), 17), torch.full((100_000, 1), 7)
    with seeded(3):
        u, _ = space.continuous(x, Ambient(x.float()), torch.float64)
    n = (u + 1) / space.spacing - 7
    assert abs(n.mean().item() - 0.5) < 5 * math.sqrt(1 / 12 / 1e5)
    assert abs(n.var().item() - 1 / 12) < 5 * math.sqrt(1 / 180 / 1e5)


def test_a_tables_features_lead_back_to_its_cells():
    """What a network sees, one-hots and indicators included, is what a decoder gives back."""
    x = torch.tensor([[171.5, 33.0, 2.0], [150.0, 0.0, 0.0]], dtype=torch.float64)
    features = TABLE.to_model(x, torch.float64)
    assert features.shape == (2, 7)
    assert torch.allclose(TABLE.from_model(features), x)


@pytest.mark.parametrize("space", [Pixels((2,), 17), Binary((2,)), Pixels((2,), 65536), Tokens(2, 7)])
def test_symbols_lie_as_far_apart_in_model_units_as_the_space_says(space):
    """The least distance among up to 50 neighbouring symbols, as a network sees them."""
    few = torch.arange(min(space.symbols, 50))
    seen = space.to_model(few[:, None].expand(-1, 2), torch.float64)[:, 0].reshape(len(few), -1)
    assert torch.nn.functional.pdist(seen).min().item() == pytest.approx(space.spacing, rel=1e-9)
    codes = space.codebook(seen)
    assert torch.equal(seen, torch.eye(space.symbols).double() if codes is None else codes[: len(few), None])


@pytest.mark.parametrize("space", [SPACES["real"], SPACES["real image"]])
def test_a_unit_is_the_derivative_of_the_users_values(space):
    """By autograd of `from_model`; where a cell is whole, a category or curved there is no such number."""
    u = torch.full((1, *space.shape), 0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(space.from_model(u).sum(), u)
    assert torch.allclose(space.unit.expand(space.shape), slope[0], rtol=1e-12)
    assert all(other.unit is None for other in (TABLE, NUMBERS, Counts((2,)), Pixels((2,)), Tokens(2, 3), Labels(3)))


STRETCHED = Real((2,), mean=(1.0, -2.0), scale=(0.5, 3.0), stretch=(True, False))


def test_a_stretched_column_is_asinh_with_its_jacobian():
    x = torch.tensor([[1e6, 4.0], [-3.0, -2.0], [1.0, 0.0]], dtype=torch.float64)
    u, log_det = STRETCHED.continuous(x, Ambient(x), torch.float64)
    assert torch.allclose(u[:, 0], ((x[:, 0] - 1) / 0.5).asinh(), rtol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda v: STRETCHED.to_model(v, torch.float64), x)
    expected = torch.stack([jacobian[i, :, i].det().abs().log() for i in range(3)])
    assert torch.allclose(log_det, expected, rtol=1e-9)
    assert torch.allclose(STRETCHED.from_model(u), x, rtol=1e-9)
    assert STRETCHED.unit is None


@pytest.mark.parametrize("head", [Gaussian(), StudentT(), MixtureDensity(2)])
def test_heads_on_a_stretched_column_integrate_to_one(head):
    """∫ p(x) dx of the stretched column by the trapezoid rule in u, where dx = scale·cosh(u) du."""
    head = head.on(STRETCHED)
    out = torch.randn(1, head.channels, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = torch.linspace(-60, 60, 24001, dtype=torch.float64)
    x = torch.stack([1 + 0.5 * u.sinh(), torch.full_like(u, math.nan)], 1)
    p = head(out.expand(len(u), -1, -1)).cell_log_prob(x)[:, 0]
    assert torch.trapezoid((p + (0.5 * u.cosh()).log()).exp(), u).item() == pytest.approx(1, abs=1e-4)


def test_heavy_tails_and_faults_of_a_density_are_told_when_data_are_read():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1000, 2))
    heavy = likeli.load_data(np.column_stack([rng.standard_t(1, 1000), z]))
    assert heavy.space.stretch == (True, False, False)
    assert any("asinh" in w for w in heavy.warnings)
    assert likeli.load_data(np.column_stack([rng.standard_t(1, 1000), z]), kind="real:linear").space.stretch == ()
    spiked = likeli.load_data(np.column_stack([np.where(rng.random(1000) < 0.3, 0, z[:, 0]), z]))
    assert any("no bound" in w and "x0 (0 in 29%)" in w for w in spiked.warnings)
    twice = likeli.load_data(np.column_stack([z, 3 * z[:, 0] + 1]))
    assert any("columns x0 and x2" in w and "no bound" in w for w in twice.warnings)
    assert not any("no bound" in w for w in likeli.load_data(z).warnings)


def test_noise_in_bins_finer_than_float32_stays_uniform():
    """A bound is an average over uniform noise: at a tenth of the bin it stays there, though u cannot tell the bin's ends."""
    law = Marginal((0.0,), (1e7,), (1.0,), 1e-3)
    space = Table((Column("n", "integer", marginal=law),))
    x = torch.tensor([[5e6], [9e6]], dtype=torch.float64)
    n = torch.tensor([[0.1], [0.9]], dtype=torch.float64)
    u, log_det = space.continuous(x, Replay([n]), torch.float32)
    expected, log_slope = space.marginals.scale(x, n)
    assert torch.equal(u, expected.float())
    assert torch.allclose(log_det.double(), log_slope[:, 0], rtol=1e-6)


def test_noise_of_large_counts_stays_uniform():
    """Σ_x ∫ p(x + n) dn = 1 for p = (1 − cos 2πx)/m on m counts from 10⁵, where float32's log(1 + x) knows x to 0.05.

    Noise kept a quarter away from the ends would make it 1.32; 2⁻¹⁰ kept away adds less than 1e-5, rounding as much as the sum
    over m · 64 places varies, 0.05/√(64 m) = 2e-4.
    """
    m, places = 1000, (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    x, n = 100_000 + torch.arange(m).repeat_interleave(64)[:, None], places.repeat(m)[:, None]
    u, log_det = Counts((1,)).continuous(x, Replay([n]), torch.float32)
    stretched = u.double().expm1()
    p = (1 - torch.cos(2 * math.pi * stretched)) / m * (1 + stretched)  # of u: dx/du = 1 + x
    total = (p * log_det.double().exp()[:, None]).sum().item() / 64
    assert total == pytest.approx(1, abs=2e-3)

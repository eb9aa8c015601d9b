"""A column by itself: spikes, intervals and tails, against counting, exact sums and the data's own distribution function."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from likeli.errors import InputError
from likeli.random import Streams
from likeli.spaces import Marginal
from likeli.spaces.marginal import Marginals

N = 5000
RNG = np.random.default_rng(0)
ZEROS = np.where(RNG.random(N) < 0.8, 0.0, RNG.lognormal(1, 1.5, N))
COLUMNS = {
    "zeros and a heavy tail": (ZEROS, False),
    "normal": (RNG.normal(3, 2, N), False),
    "student": (RNG.standard_t(1, N), False),
    "tiny": (1e-8 * RNG.normal(0, 1, N), False),
    "one value and another": (np.where(RNG.random(N) < 0.5, 2.5, RNG.uniform(0, 1, N)), False),
    "constant": (np.full(N, 7.5), False),
    "few whole": (RNG.poisson(3, N).astype(float), True),
    "many whole": (RNG.integers(-(10**6), 10**6, N).astype(float), True),
    "whole with spikes": (np.where(RNG.random(N) < 0.9, 0.0, RNG.integers(0, 10**5, N)).astype(float), True),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_cells_tile_the_line_and_their_masses_are_the_data_s(name):
    x, whole = COLUMNS[name]
    law = Marginal.found(x, whole)
    assert math.fsum(law.mass) == pytest.approx(1, abs=1e-9)
    assert law.low[0] == x.min()
    assert law.high[-1] == x.max()
    gaps = np.array(law.low[1:]) - np.array(law.high[:-1])
    assert (gaps == (1 if whole else 0)).all()
    for value, mass in law.atoms.items():
        count = (x == value).sum()
        assert mass == pytest.approx((count + 0.1) / (N + 0.1 * len(law.mass)), rel=1e-9)


def test_a_value_that_many_share_is_an_atom_and_noise_is_none():
    zeros = Marginal.found(ZEROS, False)
    assert list(zeros.atoms) == [0.0]
    assert not Marginal.found(COLUMNS["normal"][0], False).atoms
    assert set(Marginal.found(COLUMNS["few whole"][0], True).atoms) >= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
    assert 0.0 in Marginal.found(COLUMNS["whole with spikes"][0], True).atoms
    assert sum(Marginal.found(COLUMNS["many whole"][0], True).atoms.values()) < 0.01  # a cell of one by chance


@pytest.mark.parametrize("name", COLUMNS)
def test_the_scale_is_monotone_normal_and_inverts(name):
    x, whole = COLUMNS[name]
    law = Marginals([Marginal.found(x, whole)], torch.tensor([whole]))
    n = torch.from_numpy(np.random.default_rng(1).uniform(0.01, 0.99, (N, 1)))
    u, _ = law.scale(torch.from_numpy(x)[:, None], n)
    assert stats.kstest(u[:, 0].numpy(), "norm").pvalue > 1e-4  # the cells were fitted to these rows: closer than by chance
    order = np.argsort(x, kind="stable")
    steps, rising = np.diff(u[order, 0].numpy()), np.diff(x[order]) > 0
    assert (steps[rising] > 0).all()
    back = law.unscale(u)[:, 0].numpy()
    assert np.abs(back - x).max() <= 1e-9 * np.abs(x).max()


@pytest.mark.parametrize("name", COLUMNS)
def test_the_density_is_one_in_all(name):
    """Σ over cells of mass(cell)·∫ p(x|cell), each by its own size, and both tails: those of the outermost cells too."""
    x, whole = COLUMNS[name]
    marginal = Marginal.found(x, whole)
    law = Marginals([marginal], torch.tensor([whole]))
    low, high = (torch.tensor(v, dtype=torch.float64) for v in (marginal.low, marginal.high))
    size = torch.where(low == high, 1.0, high - low + whole)
    middle = ((low + high) / 2).floor() if whole else (low + high) / 2
    p = law.log_within(middle[:, None])[:, 0].exp() * torch.tensor(marginal.mass, dtype=torch.float64)
    beyond = law.log_within(torch.tensor([[low[0] - 1], [high[-1] + 1]], dtype=torch.float64))[:, 0].exp()
    span = law.span.item()
    first = beyond * torch.tensor([marginal.mass[0], marginal.mass[-1]])
    tails = (first * (span + 1) * (1 if whole else (span + 1) / span)).sum()
    assert ((p * size).sum() + tails).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", COLUMNS)
def test_draws_stay_inside_and_hold_the_spikes(name):
    x, whole = COLUMNS[name]
    marginal = Marginal.found(x, whole)
    law = Marginals([marginal], torch.tensor([whole]))
    symbols = torch.multinomial(torch.tensor(marginal.mass), N, True, generator=torch.Generator().manual_seed(0))[:, None]
    drawn = law.values(symbols, Streams(0, range(N)))[:, 0].numpy()
    assert drawn.min() >= x.min()
    assert drawn.max() <= x.max()
    top, count = max(zip(*np.unique(x, return_counts=True)), key=lambda pair: pair[1])
    if count > N / 20:
        assert abs((drawn == top).mean() - count / N) < 4.5 * math.sqrt(count / N * (1 - count / N) / N) + 1e-12
    assert torch.equal(law.symbols(torch.from_numpy(drawn)[:, None]), symbols) or not whole


@pytest.mark.parametrize("far", [1e3, 1e12, 1e150])
def test_no_value_is_impossible(far):
    for x, whole in COLUMNS.values():
        law = Marginals([Marginal.found(x, whole)], torch.tensor([whole]))
        rows = torch.tensor([[-far], [far]], dtype=torch.float64)
        u, log_slope = law.scale(rows, torch.tensor(0.5))
        for values in (law.log_within(rows), u, log_slope):
            assert values.isfinite().all()


@pytest.mark.parametrize(
    "bad",
    [
        {"low": (0.0, 1.0), "high": (0.5,), "mass": (0.5, 0.5), "escape": 0.0},
        {"low": (0.0, 1.0), "high": (1.5, 2.0), "mass": (0.5, 0.5), "escape": 0.0},
        {"low": (0.0, 1.0), "high": (1.0, 2.0), "mass": (0.5, 0.6), "escape": 0.0},
        {"low": (0.0, 1.0), "high": (1.0, 2.0), "mass": (0.0, 1.0), "escape": 0.0},
        {"low": (0.0, 1.0), "high": (1.0, 2.0), "mass": (0.5, 0.5), "escape": 0.7},
    ],
)
def test_cells_that_are_none_are_refused(bad):
    with pytest.raises(InputError, match=r"expected .*, got"):
        Marginal(**bad)

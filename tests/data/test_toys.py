"""The truths are true: log p integrates to one, and samples have that density."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

from likeli.data.builtin import toys

PLANE = {
    "gaussian": (toys.gaussian(), (-10, 14)),
    "ring8": (toys.ring8(), (-4, 4)),
    "checkerboard": (toys.checkerboard(), (-5, 5)),
    "ppca_draw": (toys.ppca_draw(dims=2, latent=1), (-12, 12)),
    "gmm_draw": (toys.gmm_draw(), (-16, 16)),
}
FALSE_ALARM = 1e-4  # of each chi-square test; all seeds are fixed


def grid(low: float, high: float, n: int) -> tuple[torch.Tensor, float]:
    """Midpoints of n × n cells and a cell's area."""
    step = (high - low) / n
    axis = low + step * (torch.arange(n, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(axis, axis), step * step


@pytest.mark.parametrize("name", PLANE)
def test_the_plane_has_mass_one(name):
    """Midpoint rule: exact for the board, and spectrally accurate for Gaussians that vanish at the border."""
    toy, (low, high) = PLANE[name]
    x, area = grid(low, high, 800)
    assert toy.log_prob(x).exp().sum().item() * area == pytest.approx(1, abs=1e-6)


def merge(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """The chi-square test's p-value, cells expected below 10 put together."""
    few = expected < 10
    o = torch.cat([counts[~few], counts[few].sum()[None]])
    e = torch.cat([expected[~few], expected[few].sum()[None]])
    o, e = (o, e) if e[-1] >= 10 else (o[:-1], e[:-1])
    return stats.chi2.sf(((o - e) ** 2 / e).sum().item(), len(e) - 1)


@pytest.mark.parametrize("name", PLANE)
def test_samples_have_the_density(name):
    toy, (low, high) = PLANE[name]
    n, bins, fine = 100_000, 20, 40
    x, area = grid(low, high, bins * fine)
    mass = (toy.log_prob(x).exp() * area).reshape(bins, fine, bins, fine).sum((1, 3)).flatten()
    cell = ((toy.sample(n, seed=1) - low) / (high - low) * bins).floor().long()
    inside = ((cell >= 0) & (cell < bins)).all(1)
    counts = torch.bincount(cell[inside, 0] * bins + cell[inside, 1], minlength=bins * bins).double()
    assert (~inside).sum() <= 5
    assert merge(counts, mass * n) > FALSE_ALARM


def test_the_chi_square_test_has_power():
    """Samples that are 3 % too wide are found."""
    toy, (low, high) = PLANE["ring8"]
    x, area = grid(low, high, 800)
    mass = (toy.log_prob(x).exp() * area).reshape(20, 40, 20, 40).sum((1, 3)).flatten()
    cell = ((toy.sample(100_000, seed=1) * 1.03 - low) / (high - low) * 20).floor().long().clamp(0, 19)
    counts = torch.bincount(cell[:, 0] * 20 + cell[:, 1], minlength=400).double()
    assert merge(counts, mass * 100_000) < FALSE_ALARM


def test_markov_enumerates_to_one_and_samples_follow():
    toy = toys.markov(length=5, vocab=3)
    every = toy.every_sequence()
    mass = toy.log_prob(every).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-12)
    x = toy.sample(50_000, seed=2)
    code = (x * 3 ** torch.arange(4, -1, -1)).sum(1)
    assert torch.equal(every[code], x)
    assert merge(torch.bincount(code, minlength=len(every)).double(), mass * 50_000) > FALSE_ALARM


@pytest.mark.parametrize("toy", [toys.gaussian(7), toys.ppca_draw(6, 3), toys.ppca_draw(6, 3, draw=4)])
def test_one_gaussian_equals_torchs(toy):
    x = toy.sample(50)
    peer = MultivariateNormal(toy.means[0], toy.covariances[0])
    torch.testing.assert_close(toy.log_prob(x), peer.log_prob(x), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("toy", [toys.gmm_draw(5, 3), toys.gaussian(4), toys.ppca_draw(8, 2)])
def test_mean_and_covariance_of_samples(toy):
    """Every entry within 5 standard errors (false alarm below 6e-7 an entry, 100 entries)."""
    n = 40_000
    x = toy.sample(n, seed=3)
    mean = (toy.weights[:, None] * toy.means).sum(0)
    spread = toy.means - mean
    covariance = (toy.weights[:, None, None] * (toy.covariances + spread[:, :, None] * spread[:, None])).sum(0)
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    centred = x - mean
    products = centred[:, :, None] * centred[:, None]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(n)).all()


def test_checkerboard_in_many_dimensions():
    toy = toys.checkerboard(3)
    x = toy.sample(64_000, seed=0)
    assert (toy.log_prob(x) == math.log(2) - 3 * math.log(8)).all()
    assert (toy.log_prob(x + torch.tensor([2.0, 0, 0], dtype=torch.float64)) == -math.inf).all()
    cells = ((x + 4) / 2).floor().long()
    counts = torch.bincount((cells * torch.tensor([16, 4, 1])).sum(1), minlength=64).double()
    dark = counts[counts > 0]
    assert len(dark) == 32
    assert merge(dark, torch.full((32,), 2000.0, dtype=torch.float64)) > FALSE_ALARM


@pytest.mark.parametrize("toy", [*(t for t, _ in PLANE.values()), toys.markov()])
def test_samples_are_a_function_of_the_seed_and_leave_the_global_state(toy):
    state = torch.get_rng_state()
    a, b, c = toy.sample(9, seed=1), toy.sample(9, seed=1), toy.sample(9, seed=2)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())
    assert toy.log_prob(a).dtype == torch.float64
    assert toy.log_prob(a).isfinite().all()

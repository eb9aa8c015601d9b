"""Chains against targets whose moments, tables and autocorrelations are known."""

import math

import pytest
import torch
from scipy import stats

from likeli.errors import InputError
from likeli.probability.mcmc import effective_draws, flip_step, hmc, hmc_step, mala
from likeli.random import Ambient, Replay, seeded

F64 = torch.float64


def quartic(z):
    """log of exp(−z⁴/4 + z²) a cell: two modes, so that a chain without rejection would be biased."""
    return (z.square() - z**4 / 4).sum(1)


@pytest.mark.parametrize("epsilon, leapfrogs", [(0.5, 4), (0.9, 2), (0.7, 1)])
def test_hamiltonian_chains_draw_from_their_target(epsilon, leapfrogs):
    """χ² over 20 bins of equal mass by quadrature, at a false-alarm rate of 1e-4 a case; 4,000 chains, their last state."""
    grid = torch.linspace(-4, 4, 8001, dtype=F64)
    cdf = torch.cumulative_trapezoid(quartic(grid[:, None]).exp(), grid)
    with seeded(0, "hmc"):
        z = torch.randn(4000, 1, dtype=F64)
        rates = []
        for _, (z, accepted) in zip(range(60), hmc(quartic, z, epsilon, leapfrogs, Ambient(z))):
            rates.append(accepted.double().mean().item())
    place = cdf[torch.searchsorted(grid, z[:, 0]).clamp(1, 8000) - 1] / cdf[-1]
    assert stats.chisquare(torch.histc(place, 20, 0, 1).numpy()).pvalue > 1e-4
    assert 0.5 < sum(rates) / len(rates) < 0.999


def test_one_leapfrog_is_mala():
    with seeded(0, "one"):
        z, xi, u = torch.randn(50, 2, dtype=F64), torch.randn(50, 2, dtype=F64), torch.rand(50, dtype=F64)
    ours, accepted = hmc_step(quartic, z, 0.8, 1, Replay([xi, u]))
    theirs, also = next(mala(quartic, z, 0.64, Replay([xi, u])))
    assert torch.equal(accepted, also)
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert 0 < accepted.sum() < 50


def test_leapfrog_errs_by_the_square_of_its_step():
    """|ΔH| over a path of one length falls by four when the step is halved."""

    def energy_error(steps):
        seen = []

        def log_prob(z):
            seen.append(z.detach())
            return -0.5 * (z.square() * torch.tensor([1.0, 4.0], dtype=F64)).sum(1)

        z, p = torch.tensor([[1.0, -0.5]], dtype=F64), torch.tensor([[0.3, 0.8]], dtype=F64)
        end, _ = hmc_step(log_prob, z, 1.0 / steps, steps, Replay([p, torch.zeros(1, dtype=F64)]))
        k, epsilon = torch.tensor([1.0, 4.0], dtype=F64), 1.0 / steps
        q, v = z, p
        for _ in range(steps):  # by hand
            v = v - 0.5 * epsilon * k * q
            q = q + epsilon * v
            v = v - 0.5 * epsilon * k * q
        assert torch.allclose(end, q, atol=1e-12)
        return (0.5 * (k * q.square() + v.square()).sum() - 0.5 * (k * z.square() + p.square()).sum()).abs().item()

    assert energy_error(16) / energy_error(32) == pytest.approx(4, rel=0.1)


def test_flips_by_the_gradient_leave_a_table_as_it_is():
    """χ² over the 32 states after 10 flips from exact draws, at a false-alarm rate of 1e-4."""
    with seeded(0, "flips"):
        A = torch.randn(5, 5, dtype=F64)

        def log_prob(z):
            return torch.einsum("bi,ij,bj->b", z, A, z) + (3 * z @ A[0]).sin()

        every = torch.cartesian_prod(*[torch.arange(2, dtype=F64)] * 5)
        p = log_prob(every).softmax(0)
        z, rate = every[torch.multinomial(p, 20_000, replacement=True)], 0.0
        for _ in range(10):
            z, accepted = flip_step(log_prob, z, Ambient(z))
            rate += accepted.double().mean().item() / 10
    counts = (z.long() * torch.tensor([16, 8, 4, 2, 1])).sum(1).bincount(minlength=32)
    keep = p * 20_000 > 5
    observed, expected = counts[keep].double(), p[keep] * 20_000
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    assert 0.1 < rate < 1


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_draws_of_a_chain_whose_correlations_are_known(rho):
    """x_t = ρ x_{t−1} + √(1 − ρ²) ξ has τ = (1 + ρ)/(1 − ρ)."""
    with seeded(0, "ar"):
        x = [torch.randn(20, 2, dtype=F64)]
        for _ in range(1999):
            x.append(rho * x[-1] + math.sqrt(1 - rho**2) * torch.randn(20, 2, dtype=F64))
    found = effective_draws(torch.stack(x))
    assert found.draws == pytest.approx(40_000 * (1 - rho) / (1 + rho), rel=0.12)
    assert found.r_hat == pytest.approx(1, abs=0.02)
    assert found.of == 40_000


def test_chains_that_have_not_met_are_told():
    with seeded(0, "apart"):
        x = torch.randn(500, 10, 1, dtype=F64) + 5.0 * (torch.arange(10, dtype=F64) % 2)[None, :, None]
    found = effective_draws(x)
    assert found.r_hat > 2
    assert found.draws < 50
    with pytest.raises(InputError, match="states: expected at least 8"):
        effective_draws(x[:5])


def test_bad_steps_are_refused():
    z = torch.zeros(2, 1)
    with pytest.raises(InputError, match="epsilon: expected"):
        next(hmc(quartic, z, 0.0, 1, Ambient(z)))
    with pytest.raises(InputError, match="leapfrogs: expected"):
        next(hmc(quartic, z, 0.1, 0, Ambient(z)))

"""Counts whose total comes first: the mass of all rows, independent laws, the size factor by quadrature, draws by their pmf."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import likeli
from likeli.diffusion.restoration import Mask
from likeli.errors import InputError, Unsupported
from likeli.random import Streams
from likeli.spaces import Counts, DirichletMultinomial, Multinomial, Poisson
from likeli.spaces.counts import log_gamma_quantile

OUT = torch.tensor([[[0.3, -1.0, 0.9]]], dtype=torch.double)
SHARE = np.exp(OUT[0, 0].numpy()) / np.exp(OUT[0, 0].numpy()).sum()
RATE = 3 * SHARE  # the total's mean starts at the number of cells
R, C = 1.7, 2.5
HEADS = {"multinomial": Multinomial(R), "dirichlet_multinomial": DirichletMultinomial(R, C)}


def bound(name, cells=3):
    return HEADS[name].on(Counts((cells,))).double().requires_grad_(False)


def rows_of(total, cells=3):
    """All rows (n, cells) of a total."""
    cuts = itertools.combinations(range(total + cells - 1), cells - 1)
    return torch.from_numpy(np.array([np.diff([-1, *cut, total + cells - 1]) - 1 for cut in cuts]))


@pytest.mark.parametrize("name", HEADS)
def test_masses_of_all_rows_of_a_total_sum_to_that_of_the_total(name):
    p = bound(name)(OUT)
    r = p.log_r.exp().item()  # stored in single precision
    for total in (0, 1, 2, 7, 20):
        mass = p.log_prob(rows_of(total)).exp().sum().item()
        assert mass == pytest.approx(stats.nbinom.pmf(total, r, r / (r + RATE.sum())), rel=1e-10)


def test_both_agree_with_scipy():
    x = np.array([[0, 0, 0], [1, 0, 4], [3, 2, 600]])
    for name in HEADS:
        p = bound(name)(OUT)
        r, total = p.log_r.exp().item(), stats.nbinom
        law = stats.multinomial if p.log_c is None else stats.dirichlet_multinomial
        shape = SHARE if p.log_c is None else p.log_c.exp().item() * SHARE
        truth = [law.logpmf(row, *((row.sum(), shape) if p.log_c is None else (shape, row.sum()))) for row in x]
        truth += total.logpmf(x.sum(1), r, r / (r + RATE.sum()))
        assert np.allclose(p.log_prob(torch.from_numpy(x)), truth, rtol=1e-9)
        single = HEADS[name].on(Counts((3,)))(OUT.float()).log_prob(torch.from_numpy(x)).detach()
        assert np.allclose(single, truth, rtol=1e-6)


def test_the_size_of_a_cell_is_integrated_out():
    """∫ Γ(s; R, R) ∏ Poisson(x_i; s λ_i) ds, by quadrature."""
    p = bound("multinomial")(OUT)
    r = p.log_r.exp().item()
    for x in ([0, 0, 0], [1, 0, 4], [6, 3, 9]):

        def of_size(s, x=x):
            return stats.gamma.pdf(s, r, scale=1 / r) * stats.poisson.pmf(x, s * RATE).prod()

        truth = integrate.quad(of_size, 0, np.inf, epsabs=1e-14, epsrel=1e-10)[0]
        assert p.log_prob(torch.tensor([x])).exp().item() == pytest.approx(truth, rel=1e-8)


def test_without_dispersion_counts_are_independent_poisson():
    x, space = torch.tensor([[0, 0, 0], [1, 0, 4], [3, 2, 9]]), Counts((3,))
    truth = Poisson().on(space)(torch.from_numpy(np.log(RATE))[None, None]).log_prob(x)
    for head in (Multinomial(1e9), DirichletMultinomial(1e9, 1e9)):
        assert torch.allclose(head.on(space)(OUT).log_prob(x), truth, atol=2e-5)  # log Γ(1e9) is 2e10: 4e-6 a digit


@pytest.mark.parametrize("name", HEADS)
def test_draws_have_the_mass_that_they_are_scored_with(name):
    p, n = bound(name), 4000
    x = p(OUT.expand(n, -1, -1)).draw(Streams(0, range(n), torch.double))
    rows = torch.cat([rows_of(total) for total in range(4)])
    expected = n * p(OUT).log_prob(rows).exp().numpy()
    found = np.array([int((x == row).all(1).sum()) for row in rows])
    found, expected = np.append(found, n - found.sum()), np.append(expected, n - expected.sum())
    assert stats.chisquare(found, expected).pvalue > 1e-3
    mean = p(OUT).mean[0]
    assert np.allclose(mean, RATE, rtol=1e-12)
    assert ((x.double().mean(0) - mean).abs() < 4 * x.double().std(0) / math.sqrt(n)).all()


def test_gamma_quantiles_keep_what_would_underflow():
    """Of small g the cdf is g^α/Γ(α + 1)·(1 − O(g))."""
    u, alpha = np.array([0.01, 0.3, 0.9, 0.3, 0.2]), np.array([2.0, 0.5, 1e-3, 1e-4, 0.08])
    found = log_gamma_quantile(torch.from_numpy(u), torch.from_numpy(alpha)).numpy()
    stored = [0, 1, 4]
    assert np.allclose(found[stored], np.log(stats.gamma.ppf(u[stored], alpha[stored])))
    assert np.allclose(found[2:4], [(math.log(v) + math.lgamma(a + 1)) / a for v, a in zip(u[2:4], alpha[2:4])])


@pytest.mark.parametrize("name", HEADS)
def test_gradients(name):
    head, x = HEADS[name].on(Counts((3,))).double(), torch.tensor([[0, 2, 5]])
    assert torch.autograd.gradcheck(lambda o, *_: head(o).log_prob(x), (OUT.clone().requires_grad_(), *head.parameters()))


def test_a_model_integrates_to_the_total_over_codes():
    """log p of a VAE by the trapezoidal rule over its one code sums to 1 over rows, as far as totals are enumerated."""
    with likeli.seeded(0):
        model = likeli.VAE(Counts((2,)), 1, likeli.CoderBackbone((8,)), head=DirichletMultinomial(9.0, 2.0)).double().eval()
    x = torch.cat([rows_of(total, 2) for total in range(30)])
    z = torch.linspace(-8, 8, 81, dtype=torch.double)
    weight = (z[1] - z[0]) * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        p = sum(w * model.observation(c.expand(len(x), 1)).log_prob(x).exp() for c, w in zip(z, weight))
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    bound = model.log_likelihood(x[:10], samples=200, seed=0)
    assert (bound.value < p[:10].log() + 5 * bound.stderr).all()
    assert (bound.measure, bound.knows) == ("mass", likeli.Knows.LOWER_BOUND)


@pytest.mark.parametrize("name", HEADS)
def test_nothing_that_a_decoder_gives_tells_how_deep_a_cell_was_read(name):
    """P(ℓ) is the same whatever out is, and what is added to all of out adds nothing."""
    head, x = bound(name), rows_of(9)
    other = torch.randn(1, 1, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    totals = [head(out).log_prob(x).logsumexp(0) for out in (OUT, other)]
    assert torch.allclose(*totals, rtol=1e-12)
    assert torch.allclose(head(OUT).log_prob(x), head(OUT + 2.5).log_prob(x), rtol=1e-12)


def test_families_of_independent_cells_refuse_them():
    with pytest.raises(InputError, match="head: expected one of independent cells, got multinomial"):
        likeli.Autoregressive(Counts((3,)), head=Multinomial())
    with likeli.seeded(0):
        model = likeli.VAE(Counts((3,)), 2, likeli.CoderBackbone((8,)), head=Multinomial())
    mask = Mask([True, False, True], (3,))
    with pytest.raises(Unsupported, match="share their total"):
        likeli.restore(model, torch.tensor([[1.0, 0.0, 2.0]]), mask, 0.0, 2)
    for make in (lambda: Multinomial(0.0), lambda: DirichletMultinomial(1.0, -1.0)):
        with pytest.raises(InputError, match="a positive number"):
            make().on(Counts((3,)))

"""The two Gaussian fits against moments, modes and each other."""

import math

import pytest
import torch
from torch import distributions as D

from likeli.errors import InputError, Unsupported
from likeli.probability.gaussian_fit import fit_gaussian
from likeli.probability.information import kl_divergence
from likeli.random import seeded

BIMODAL = D.MixtureSameFamily(
    D.Categorical(torch.tensor([0.4, 0.6], dtype=torch.float64)),
    D.Normal(torch.tensor([-3.0, 3.0], dtype=torch.float64), torch.tensor([0.7, 1.0], dtype=torch.float64)),
)


def gaussian(d):
    with seeded(d):
        a = torch.randn(d, d, dtype=torch.float64)
        return D.MultivariateNormal(torch.randn(d, dtype=torch.float64), a @ a.T + 0.5 * torch.eye(d, dtype=torch.float64))


def test_forward_takes_the_moments_of_both_modes_and_reverse_one_mode():
    forward = fit_gaussian(BIMODAL, "forward", box=[(-12, 14)])
    assert abs(forward.loc.item() - BIMODAL.mean.item()) < 1e-6
    assert abs(forward.covariance_matrix.item() - BIMODAL.variance.item()) < 1e-6
    for start, mode in ((-2.0, -3.0), (2.0, 3.0)):
        q = D.MultivariateNormal(torch.tensor([start]).double(), torch.eye(1).double())
        assert abs(fit_gaussian(BIMODAL, "reverse", start=q).loc.item() - mode) < 0.1


def test_forward_wins_in_its_own_divergence():
    forward = fit_gaussian(BIMODAL, "forward", box=[(-12, 14)])
    reverse = fit_gaussian(BIMODAL, "reverse", box=[(-12, 14)])
    x = torch.linspace(-12, 14, 4001, dtype=torch.float64)
    p = BIMODAL.log_prob(x)

    def kl_from_p(q):
        return torch.trapezoid(p.exp() * (p - q.log_prob(x[:, None])), x).item()

    assert kl_from_p(forward) < kl_from_p(reverse)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_both_find_a_gaussian_exactly(d):
    p = gaussian(d)
    q = fit_gaussian(p, "reverse", samples=torch.zeros(d + 1, d))
    assert float(kl_divergence(q, p)) < (1e-8 if d <= 3 else 1e-2)  # beyond three axes by 2048 quasi-random nodes
    if d <= 2:
        box = [(m - 9 * s, m + 9 * s) for m, s in zip(p.loc.tolist(), p.variance.sqrt().tolist())]
        assert float(kl_divergence(p, fit_gaussian(p, "forward", box=box))) < 1e-10


def test_forward_from_samples_is_maximum_likelihood():
    x = gaussian(3).sample((50,))
    q = fit_gaussian(lambda x: x.sum(1), "forward", samples=x)
    best = q.log_prob(x).mean()
    for scale in (0.9, 1.1):
        assert D.MultivariateNormal(q.loc, q.covariance_matrix * scale).log_prob(x).mean() < best
        assert D.MultivariateNormal(q.loc * scale, q.covariance_matrix).log_prob(x).mean() < best
    assert math.isclose(q.covariance_matrix[0, 1], (x.T.cov() * 49 / 50)[0, 1], rel_tol=1e-12)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(InputError, match="direction"):
        fit_gaussian(BIMODAL, "sideways", box=[(0, 1)])
    with pytest.raises(InputError, match="box: expected a box or samples"):
        fit_gaussian(BIMODAL, "forward")
    with pytest.raises(InputError, match="low < high"):
        fit_gaussian(BIMODAL, "forward", box=[(1, 0)])
    with pytest.raises(Unsupported, match="3 axes"):
        fit_gaussian(gaussian(3), "forward", box=[(-1, 1)] * 3)

"""One prediction in four readings, and the exact denoisers that everything else is measured against."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from likeli.diffusion.categorical import CategoricalDenoiser
from likeli.diffusion.denoiser import Denoiser, Prediction
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.schedule import Karras, LogLinear, Straight, SubVP
from likeli.errors import InputError
from likeli.random import seeded
from likeli.spaces import Pixels, Tokens

READINGS = ["x", "eps", "score", "v", "flow"]


def mixture(schedule, dtype=torch.float64):
    means = torch.tensor([[-1.0, 0.5], [1.2, 0.3], [0.0, -1.5]], dtype=dtype)
    roots = torch.tensor([[[0.5, 0.0], [0.2, 0.3]], [[0.2, 0.0], [0.0, 0.6]], [[0.7, 0.0], [-0.4, 0.2]]], dtype=dtype)
    return MixtureDenoiser(schedule, torch.tensor([0.5, 0.2, 0.3], dtype=dtype), means, roots @ roots.mT)


@pytest.mark.parametrize("schedule", [LogLinear(-6, 6), Karras(), SubVP(), Straight()], ids=lambda s: s.kind())
@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_converts_to_every_other(schedule, reading):
    with seeded(0, "readings"):
        z, x = torch.randn(2, 5, 3, dtype=torch.float64)
    at = schedule.at(0.4)
    p = Prediction.of_x(x, z, at.alpha, at.sigma)
    again = getattr(Prediction, f"of_{reading}")(getattr(p, reading), z, at.alpha, at.sigma)
    for name in READINGS:
        torch.testing.assert_close(getattr(again, name), getattr(p, name), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(again.alpha * again.x + again.sigma * again.eps, z, rtol=1e-10, atol=1e-10)


def test_edm_reading_has_the_published_coefficients():
    f, z = torch.randn(2, 4, dtype=torch.float64)
    sigma, data = torch.tensor(0.7, dtype=torch.float64), 0.5
    p = Prediction.of_edm(f, z, torch.ones((), dtype=torch.float64), sigma)
    skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2).sqrt()
    torch.testing.assert_close(p.x, skip * z + out * f)
    torch.testing.assert_close(p.eps, (z - p.x) / sigma)


@pytest.mark.parametrize("predict", READINGS)
@pytest.mark.parametrize("gamma", [-30.0, -13.0, 0.0, 13.0, 30.0])
def test_float32_stays_finite_at_any_log_snr(predict, gamma):
    schedule = LogLinear(-30, 30)
    denoiser = Denoiser(lambda z, gamma, y: 0.3 * z, schedule, predict)
    p = denoiser(torch.randn(4, 3), schedule.at((gamma + 30) / 60))
    assert all(bool(getattr(p, name).isfinite().all()) for name in READINGS)


@pytest.mark.parametrize("schedule", [LogLinear(-6, 6), Karras(), SubVP()], ids=lambda s: s.kind())
def test_the_exact_denoiser_is_tweedies(schedule):
    """E[ε|z] = −σ ∇log p_t(z) and E[x|z] = (z + σ² ∇log p_t)/α, with the density from torch and the gradient from autograd."""
    denoiser, at = mixture(schedule), schedule.at(0.37)
    z = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    covariance = (denoiser.axes * denoiser.variances[:, None]) @ denoiser.axes.mT
    noisy = at.alpha**2 * covariance + at.sigma**2 * torch.eye(2, dtype=torch.float64)
    p = MixtureSameFamily(Categorical(denoiser.weights), MultivariateNormal(at.alpha * denoiser.means, noisy))
    torch.testing.assert_close(denoiser.log_density(z, at), p.log_prob(z), rtol=1e-10, atol=1e-10)
    score = torch.autograd.grad(p.log_prob(z).sum(), z)[0]
    prediction = denoiser(z, at)
    torch.testing.assert_close(prediction.eps, -at.sigma * score, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(prediction.x, (z + at.sigma**2 * score) / at.alpha, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(prediction.score, score, rtol=1e-8, atol=1e-8)


def test_one_point_a_row_equals_one_point_for_all():
    schedule = LogLinear(-6, 6)
    z = torch.randn(3, 2, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    for denoiser in (mixture(schedule), Denoiser(lambda z, gamma, y: z * gamma[:, None], schedule, "v")):
        together = denoiser(z, schedule.at(t)).x
        single = torch.cat([denoiser(z[i : i + 1], schedule.at(t[i])).x for i in range(3)])
        torch.testing.assert_close(together, single)


def test_an_empty_network_is_the_exact_denoiser_of_uniform_independent_cells():
    """Against Bayes' rule by enumeration of the grey levels, and of the symbols."""
    schedule = LogLinear(-8, 8)
    space = Pixels((2, 3), 5)
    z, at = torch.randn(4, 2, 3, dtype=torch.float64), schedule.at(0.45)
    c = space.codebook(z)
    weight = torch.distributions.Normal(at.alpha * c, at.sigma).log_prob(z[..., None]).softmax(-1)
    empty = CategoricalDenoiser(lambda z, gamma, y: z.new_zeros(len(z), 5, 2, 3), schedule, space)
    torch.testing.assert_close(empty(z, at).x, (weight * c).sum(-1))
    space = Tokens(3, 4)
    z = torch.randn(2, 3, 4, dtype=torch.float64)
    joint = torch.distributions.Normal(at.alpha * torch.eye(4, dtype=torch.float64), at.sigma).log_prob(z[:, :, None]).sum(-1)
    empty = CategoricalDenoiser(lambda z, gamma, y: torch.zeros_like(z), schedule, space)
    torch.testing.assert_close(empty(z, at).x, joint.softmax(-1))
    torch.testing.assert_close(empty.log_pmf(z, at).movedim(1, -1), joint.log_softmax(-1))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="predict"):
        Denoiser(torch.nn.Identity(), LogLinear(), "noise")
    with pytest.raises(InputError, match="covariances"):
        MixtureDenoiser(LogLinear(), torch.ones(1), torch.zeros(1, 2), torch.ones(1, 3))

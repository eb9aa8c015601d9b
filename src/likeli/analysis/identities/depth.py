"""Priors, conditions and levels beyond the plain VAE, each against a truth in closed form or by quadrature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch import distributions as D

from likeli.analysis.check import identity
from likeli.analysis.estimators import prior_monte_carlo
from likeli.analysis.identities.truth import as_vae, fitted_ppca, linear_data
from likeli.models.markov_hvae import MarkovHVAE
from likeli.models.vae import VAE
from likeli.observation import Gaussian
from likeli.space import Labels, Real


@identity("R28", "R11", title="VAE with a mixture prior: Monte Carlo log p(x) = quadrature, in s.e.", tolerance=4.5)
def learned_prior_marginal() -> float:
    vae = VAE(Real((3,)), 1, hidden=(8,), prior_family="mixture", components=3, head=Gaussian("fixed", 0.8)).double().eval()
    x = torch.randn(10, 3, dtype=torch.float64)
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        log_p = vae.observation(z[:, None].expand(-1, 10, -1).reshape(-1, 1)).log_prob(x.repeat(4001, 1)).reshape(4001, 10)
        prior = vae.prior(1, z[:, :0]).log_prob(z)
    truth = torch.trapezoid((log_p + prior[:, None]).exp(), z[:, 0], dim=0).log()
    result = prior_monte_carlo(vae, x, samples=3000).likelihood
    assert result.stderr is not None
    return ((result.value - truth).abs() / result.stderr).max().item()


@identity("R40", title="linear conditional VAE with the exact posterior: every weight is p(x|y)", tolerance=1e-10)
def conditional_vae_is_exact() -> float:
    ppca = fitted_ppca(linear_data(300, 4), 2)
    plain, shift = as_vae(ppca), torch.randn(4, 3, dtype=torch.float64)
    head = Gaussian("learned")
    vae = VAE(Real((4,)), 2, hidden=(), head=head, posterior_family="full", condition=Labels(3)).double().eval()
    with torch.no_grad():
        encoder = plain.encoder[-1]
        vae.decoder[-1].weight.copy_(torch.cat([ppca.W, shift], 1))
        vae.decoder[-1].bias.copy_(ppca.b)
        vae.encoder[-1].weight.copy_(torch.cat([encoder.weight, -encoder.weight @ shift], 1))
        vae.encoder[-1].bias.copy_(encoder.bias)
        vae.head.log_width.copy_(plain.head.log_width)
        x, y = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
        weights = torch.stack([vae.log_weight(x, y) for _ in range(5)])
    truth = ppca.log_likelihood(x - shift.T[y]).value
    return (weights - truth).abs().max().item()


@identity("R51", "R52", title="linear-Gaussian hierarchy, exact q: every weight is one Gaussian's p(x)", tolerance=1e-10)
def linear_hierarchy_is_one_gaussian() -> float:
    """z_2 ~ N(0, 1), z_1 = a z_2 + s ε, x = w z_1 + r ε: x ~ N(0, (a² + s²) w wᵀ + r² I), and both posteriors are linear."""
    model = MarkovHVAE(Real((3,)), (1, 1), hidden=(), head=Gaussian("fixed", 0.9)).double().eval()
    r = model.head.log_width.exp().item()  # 0.9 in single precision
    a, s, w = 0.8, 0.6, torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    v = a * a + s * s  # variance of z_1
    precision = 1 / v + (w @ w).item() / r**2  # of z_1 given x
    with torch.no_grad():
        _set(model.out[-1], w[:, None])
        _set(model.down[0][-1], torch.tensor([[a]], dtype=torch.float64), s)
        _set(model.up[0][-1], w[None] / (r**2 * precision), precision**-0.5)
        _set(model.up[1][-1], torch.tensor([[a / v]], dtype=torch.float64), s / v**0.5)
    covariance = v * torch.outer(w, w) + r**2 * torch.eye(3, dtype=torch.float64)
    p = D.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    x = p.sample((20,))
    with torch.no_grad():
        return max((model.log_weight(x) - p.log_prob(x)).abs().max().item() for _ in range(5))


def _set(layer: nn.Linear, weight: Tensor, std: float | None = None) -> None:
    """A linear layer with the given mean and a constant standard deviation, which the networks squash by 7·tanh(·/7)."""
    layer.bias.zero_()
    layer.weight.zero_()
    layer.weight[: len(weight)] = weight
    if std is not None:
        layer.bias[len(weight) :] = 7 * math.atanh(math.log(std) / 7)

"""Surprise, entropy and divergence."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import integrate, stats
from torch import Tensor
from torch import distributions as D

from likeli.probability import information as info
from likeli.probability.explain_loss import explain_loss
from likeli.theory.check import identity


def _tables(n: int = 50, k: int = 6) -> Tensor:
    p = torch.rand(n, k, dtype=torch.float64) ** 3
    return p / p.sum(1, keepdim=True)


def _gaussian(d: int = 3) -> D.MultivariateNormal:
    a = torch.randn(d, d, dtype=torch.float64)
    return D.MultivariateNormal(torch.randn(d, dtype=torch.float64), a @ a.T + 0.3 * torch.eye(d, dtype=torch.float64))


@identity("R3", title="−log p(x, y) = −log p(x) − log p(y) for independent x, y", tolerance=1e-12)
def surprise_adds() -> float:
    p, q = _tables(2)
    i, j = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    apart = info.surprise(p, i) + info.surprise(q, j)
    return (info.surprise(torch.outer(p, q).flatten(), 6 * i + j) - apart).abs().max().item()


@identity("R4", title="H(N(μ, Σ)) = ½ log det 2πeΣ", tolerance=1e-12)
def gaussian_entropy() -> float:
    p = _gaussian()
    return abs(float(info.entropy(p)) - 0.5 * torch.logdet(2 * math.pi * math.e * p.covariance_matrix).item())


@identity("R4", "R10", title="95 % Monte Carlo intervals cover the entropy: misses of 100, less 5.5", tolerance=4.5)
def monte_carlo_coverage() -> float:
    p = D.MixtureSameFamily(D.Categorical(torch.ones(2)), D.Normal(torch.tensor([-2.0, 1.0]).double(), 1.0))

    def surprise(x: float) -> float:
        log_p = p.log_prob(torch.tensor(x, dtype=torch.float64)).item()
        return -math.exp(log_p) * log_p

    truth = integrate.quad(surprise, -9, 8)[0]
    runs = [info.entropy(p, samples=400, seed=s) for s in range(100)]
    return abs(sum(abs(float(r) - truth) > 1.96 * float(r.stderr) for r in runs if r.stderr is not None) - 5.5)


@identity("R5", "R9", "I1", title="H(P, Q) = H(P) + KL(P‖Q)", tolerance=1e-12)
def cross_entropy_splits() -> float:
    p, q = _tables(), _tables()
    return (info.cross_entropy(p, q).value - info.entropy(p).value - info.kl_divergence(p, q).value).abs().max().item()


@identity("R6", "I1", title="KL ≥ 0, = 0 for equals, +∞ outside the support, never NaN: violations", tolerance=0)
def kl_rules() -> float:
    p, q = _tables(1000), _tables(1000)
    outside = info.kl_divergence(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    inside = info.kl_divergence(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.0]))
    broken = (info.kl_divergence(p, q).value <= 0).sum() + (info.kl_divergence(p, p).value != 0).sum()
    return float(broken) + float(float(outside) != math.inf) + float(abs(float(inside) - math.log(2)) > 1e-6)


@identity("R6", "I1", title="KL is the same before and after an affine map and tanh", tolerance=1e-8)
def kl_bijection() -> float:
    p, q = D.Normal(torch.tensor(0.2).double(), 0.5), D.Normal(torch.tensor(-0.1).double(), 0.8)
    bend = [D.AffineTransform(0.3, 0.7), D.TanhTransform()]
    bent_p, bent_q = D.TransformedDistribution(p, bend), D.TransformedDistribution(q, bend)

    def integrand(x: float) -> float:
        at = torch.tensor(x, dtype=torch.float64)
        return (bent_p.log_prob(at).exp() * (bent_p.log_prob(at) - bent_q.log_prob(at))).item()

    bent = integrate.quad(integrand, -0.999999, 0.999999, epsabs=1e-11, limit=400)[0]
    return abs(bent - float(info.kl_divergence(p, q)))


@identity("R7", title="log E X ≥ E log X for 10⁵ random discrete X: largest violation", tolerance=1e-12)
def jensen() -> float:
    p, x = _tables(100_000), torch.rand(100_000, 6, dtype=torch.float64) * 10
    return ((p * x.log()).sum(1) - (p * x).sum(1).log()).max().clamp(min=0).item()


@identity("R12", title="log N(x; μ, Σ) is scipy's", tolerance=1e-10)
def gaussian_log_density() -> float:
    p, x = _gaussian(), torch.randn(20, 3, dtype=torch.float64)
    truth = stats.multivariate_normal(p.loc.numpy(), p.covariance_matrix.numpy()).logpdf(x.numpy())
    return float(np.abs(-info.surprise(p, x).numpy() - truth).max())


@identity("R27", title="closed Gaussian KL = quadrature", tolerance=1e-8)
def gaussian_kl_quadrature() -> float:
    p, q = D.Normal(torch.tensor(0.3).double(), 0.5), D.Normal(torch.tensor(-0.4).double(), 1.2)

    def integrand(x: float) -> float:
        at = torch.tensor(x, dtype=torch.float64)
        return (p.log_prob(at).exp() * (p.log_prob(at) - q.log_prob(at))).item()

    return abs(integrate.quad(integrand, -7, 7, epsabs=1e-11, limit=200)[0] - float(info.kl_divergence(p, q)))


@identity("R27", title="KL of full Gaussians with diagonal Σ = sum of KLs by cell", tolerance=1e-12)
def gaussian_kl_full_diagonal() -> float:
    m, s = torch.randn(2, 5, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64) + 0.2
    full = [D.MultivariateNormal(a, scale_tril=b.diag()) for a, b in zip(m, s)]
    return abs(float(info.full_gaussian_kl(*full)) - info.gaussian_kl(m[0], s[0], m[1], s[1]).sum().item())


@identity("R49", "I11", title="mean squared error + w·KL is a Gaussian VAE with σ² = w·D_x/(2·D_z)", tolerance=1e-12)
def squared_error_is_a_gaussian() -> float:
    d_x, d_z, w = 12, 3, 0.7
    error, kl = torch.rand(8, d_x, dtype=torch.float64), torch.rand(8, d_z, dtype=torch.float64)
    loss = error.mean(1) + w * kl.mean(1)
    model = explain_loss(data_dim=d_x, latent_dim=d_z, reduction="mean", kl_reduction="mean", kl_weight=w)
    sigma2 = w * d_x / (2 * d_z)
    bound = error.sum(1) / (2 * sigma2) + d_x / 2 * math.log(2 * math.pi * sigma2) + kl.sum(1)
    return (model.scale * loss + model.constant - bound).abs().max().item()


@identity("R49", title="the σ² of highest likelihood is the mean squared error per cell", tolerance=1e-6)
def best_sigma_is_mean_squared_error() -> float:
    residual = torch.randn(50, 4, dtype=torch.float64) * 1.7
    log_var = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_var], max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (0.5 * residual.square() / log_var.exp() + 0.5 * log_var).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return abs(log_var.exp().item() / residual.square().mean().item() - 1)

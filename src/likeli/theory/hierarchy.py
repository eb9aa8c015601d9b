"""Deeper hierarchies, other codes, flows."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributions as D

from likeli.latent.estimators import prior_monte_carlo
from likeli.models.autoencoder import CAE, DAE
from likeli.models.flow import Flow
from likeli.models.hvae import HVAE
from likeli.models.markov_hvae import MarkovHVAE
from likeli.models.vae import VAE
from likeli.probability.draw import gaussian_product
from likeli.probability.gaussian_fit import fit_gaussian
from likeli.probability.information import full_gaussian_kl, gaussian_kl
from likeli.random import Replay, seeded
from likeli.spaces import Gaussian
from likeli.spaces.base import Labels, Real
from likeli.theory.check import identity
from likeli.theory.truth import as_vae, fitted_ppca, linear_data, minimise

M = TypeVar("M", bound=nn.Module)


@identity("R8", title="forward-KL Gaussian of a bimodal density = its mean and variance", tolerance=1e-6)
def forward_fit_matches_moments() -> float:
    p = _bimodal()
    q = fit_gaussian(p, "forward", box=[(-12.0, 14.0)])
    return max(abs((q.loc - p.mean).item()), abs((q.covariance_matrix - p.variance).item()))


@identity("R8", title="reverse-KL Gaussian of a bimodal density sits on a mode: distance", tolerance=0.1)
def reverse_fit_seeks_a_mode() -> float:
    start = D.MultivariateNormal(torch.tensor([2.0], dtype=torch.float64), torch.eye(1, dtype=torch.float64))
    return abs(fit_gaussian(_bimodal(), "reverse", start=start).loc.item() - 3)


def _bimodal() -> D.MixtureSameFamily:
    parts = D.Normal(torch.tensor([-3.0, 3.0], dtype=torch.float64), torch.tensor([0.7, 1.0], dtype=torch.float64))
    return D.MixtureSameFamily(D.Categorical(torch.tensor([0.4, 0.6], dtype=torch.float64)), parts)


@identity("R53", title="HVAE: log p(x|z) − Σ torch's own KL of each level = ELBO; no KL is negative", tolerance=1e-10)
def levels_sum_to_the_bound() -> float:
    model, x = _nudged(HVAE(Real((5,)), (3, 2, 2), width=16)), torch.randn(40, 5, dtype=torch.float64)
    eps = [torch.randn(40, d, dtype=torch.float64) for d in (2, 2, 3)]  # the top level is drawn first
    elbo, state, kl = model.elbo(x, noise=Replay(eps)), None, []
    for step in model.walk(Replay(eps), context=model.infer(x)):
        a, b, state = step.q.base_dist, step.p.base_dist, step.state  # type: ignore[attr-defined]
        kl.append(D.kl_divergence(D.Normal(a.loc, a.scale), D.Normal(b.loc, b.scale)).sum(1))
    total = (elbo.value - (model.observation(state).log_prob(x) - sum(kl))).abs().max()
    apart = (elbo.kl - torch.stack(kl[::-1], 1)).abs().max()
    return max(total.item(), apart.item(), (-elbo.kl).max().item())


@identity("R51", "R52", "R55", title="mean of log p(x,z) − log q(z|x) = mean ELBO, level by level, in s.e.", tolerance=4)
def ratio_and_closed_bounds_agree() -> float:
    worst = 0.0
    x = torch.randn(4000, 3, dtype=torch.float64)
    for model in (HVAE(Real((3,)), (2, 2), width=8), MarkovHVAE(Real((3,)), (2, 2), hidden=(8,))):
        _nudged(model)
        with torch.no_grad():
            gap = model.elbo(x).value - model.log_weight(x)
        worst = max(worst, (gap.mean().abs() / gap.std() * len(gap) ** 0.5).item())
    return worst


@identity("R54", "I16", title="ladder: N·N is the precision-weighted Gaussian", tolerance=1e-12)
def product_of_gaussians() -> float:
    m, s = torch.randn(2, 100, dtype=torch.float64), torch.rand(2, 100, dtype=torch.float64) + 0.1
    mean, std = gaussian_product(m[0], s[0], m[1], s[1])
    precision = s.square().reciprocal()
    truth = (precision * m).sum(0) / precision.sum(0), precision.sum(0).rsqrt()
    return max((mean - truth[0]).abs().max().item(), (std - truth[1]).abs().max().item())


@identity("R55", "I16", title="KL(z_2) + E KL(z_1|z_2) = KL of the joint, by Gauss–Hermite", tolerance=1e-10)
def kl_recursion() -> float:
    """q, p: z_2 ~ N(m, s²), z_1 | z_2 ~ N(a z_2 + c, r²)."""
    q, p = torch.rand(2, 5, dtype=torch.float64) + 0.3
    joints = []
    for m, s, a, c, r in (q, p):
        covariance = torch.stack([torch.stack([s * s, a * s * s]), torch.stack([a * s * s, a * a * s * s + r * r])])
        joints.append(D.MultivariateNormal(torch.stack([m, a * m + c]), covariance))
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(20))
    z = q[0] + q[1] * nodes
    inner = gaussian_kl(q[2] * z + q[3], q[4], p[2] * z + p[3], p[4])
    nested = gaussian_kl(q[0], q[1], p[0], p[1]) + (weights * inner).sum() / weights.sum()
    return abs((nested - full_gaussian_kl(*joints)).item())


@identity("R31", "I13", title="the best linear denoiser's residual over σ² is ∇ log p_σ of Gaussian data", tolerance=1e-10)
def denoiser_is_the_score() -> float:
    a = torch.randn(3, 3, dtype=torch.float64)
    covariance, sigma = a @ a.T, 0.3
    smoothed = covariance + sigma**2 * torch.eye(3, dtype=torch.float64)
    model = DAE(Real((3,)), noise_std=sigma, latent_dim=3, hidden=()).double()
    with torch.no_grad():
        model.encoder[-1].weight.copy_(torch.eye(3))
        model.decoder[-1].weight.copy_(covariance @ torch.linalg.inv(smoothed))
        model.encoder[-1].bias.zero_()
        model.decoder[-1].bias.zero_()
    x = torch.randn(20, 3, dtype=torch.float64)
    return (model.score(x) + x @ torch.linalg.inv(smoothed)).abs().max().item()


@identity("R31", "I13", title="a trained linear denoiser points along ∇ log p_σ: 1 − cosine", tolerance=0.01)
def trained_denoiser_is_the_score() -> float:
    a = torch.randn(3, 3, dtype=torch.float64)
    covariance, sigma = a @ a.T, 0.5
    x = torch.randn(4000, 3, dtype=torch.float64) @ a.T
    model = DAE(Real((3,)), noise_std=sigma, latent_dim=3, hidden=()).double()

    def loss() -> Tensor:
        with seeded(0, "corrupt"):  # one corruption, so that the loss is one function
            return model.loss(x).mean()

    minimise(loss, list(model.parameters()))
    truth = -x @ torch.linalg.inv(covariance + sigma**2 * torch.eye(3, dtype=torch.float64))
    return 1 - torch.cosine_similarity(model.score(x).detach(), truth).mean().item()


@identity("R31", "I14", title="linear net: denoising costs σ²‖∂r/∂x‖² more than reconstructing, in s.e.", tolerance=4)
def denoising_contracts() -> float:
    model = DAE(Real((4,)), noise_std=0.3, latent_dim=2, hidden=()).double().requires_grad_(False)
    for layer in (model.encoder[-1], model.decoder[-1]):
        layer.bias.zero_()
    x = 0.1 * torch.randn(1, 4, dtype=torch.float64).expand(20_000, 4)
    jacobian = model.decoder[-1].weight @ model.encoder[-1].weight
    excess = model.loss(x) - model.reconstruction_error(x) - 0.09 * jacobian.square().sum()
    return (excess.mean().abs() / excess.std() * len(x) ** 0.5).item()


@identity("R32", "I14", title="contractive penalty = autograd's ‖∂g/∂x‖²_F", tolerance=1e-6)
def contraction_is_the_jacobian() -> float:
    model = CAE(Real((4,))).double()
    x = torch.randn(10, 4, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: model.encode(v[None])[0]))(x)
    return (model.jacobian_norm(x) - jacobian.square().sum((1, 2))).abs().max().item()


@identity("R103", title="flow: f⁻¹(f(u)) = u and log |det ∂f/∂u| = autograd's", tolerance=1e-6)
def flow_inverts() -> float:
    flow = _nudged(Flow(Real((3,)), transforms=4, hidden=(8,)))
    u = 2 * torch.randn(20, 3, dtype=torch.float64)
    z, log_det = flow(u)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: flow(v[None])[0][0]))(u)
    errors = flow.inverse(z) - u, log_det - torch.linalg.slogdet(jacobian)[1]
    return max(e.abs().max().item() for e in errors)


@identity("R103", "R1", "I2", title="flow: the density of the line integrates to 1", tolerance=1e-4)
def flow_mass() -> float:
    flow = _nudged(Flow(Real((1,)), transforms=3, hidden=(8,)))
    x = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    return abs(torch.trapezoid(flow.log_likelihood(x[:, None]).value.exp(), x).item() - 1)


def _nudged(model: M) -> M:
    """The model in float64 with weights off their starting point, where a zero layer would hide errors."""
    model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


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


A, S, W, R = 0.8, 0.6, 1.5, 0.4


def _normal(mean: Tensor | float, std: float) -> D.Normal:
    return D.Normal(torch.as_tensor(mean, dtype=torch.float64), std)


@identity("R54", "I16", title="linear chain, q(z_i|z_{>i}, x) ∝ p·d: every weight is p(x)", tolerance=1e-12)
def ladder_is_exact() -> float:
    """d_1 is p(x|z_1) as a Gaussian of z_1, and d_2 is p(x|z_2) as one of z_2: evidence read from x alone."""
    x, n = torch.randn(200, dtype=torch.float64), 200
    width = torch.tensor(R / W, dtype=torch.float64)
    scale_1, one = torch.tensor(S, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    q_2 = D.Normal(*gaussian_product(torch.zeros(n, dtype=torch.float64), one, x / (W * A), (S**2 + width**2).sqrt() / A))
    z_2 = q_2.sample()
    q_1 = D.Normal(*gaussian_product(A * z_2, scale_1, x / W, width))
    z_1 = q_1.sample()
    joint = _normal(0.0, 1.0).log_prob(z_2) + _normal(A * z_2, S).log_prob(z_1) + _normal(W * z_1, R).log_prob(x)
    weights = joint - q_2.log_prob(z_2) - q_1.log_prob(z_1)
    truth = _normal(0.0, (W**2 * (A**2 + S**2) + R**2) ** 0.5).log_prob(x)
    return (weights - truth).abs().max().item()


@identity("R54", title="the same chain: the best q(z_1|x) q(z_2|x) stays −½ log(1 − ρ²) nats away", tolerance=1e-8)
def factorised_levels_stay_away() -> float:
    """ρ is the correlation of z_1 and z_2 given x, which a product over the levels has no room for."""
    precision = torch.tensor([[(W / R) ** 2 + 1 / S**2, -A / S**2], [-A / S**2, 1 + A**2 / S**2]], dtype=torch.float64)
    posterior = D.MultivariateNormal(torch.zeros(2, dtype=torch.float64), precision_matrix=precision)
    mean, log_std = torch.ones(2, dtype=torch.float64).requires_grad_(), torch.zeros(2, dtype=torch.float64).requires_grad_()

    def gap() -> Tensor:
        return full_gaussian_kl(D.MultivariateNormal(mean, scale_tril=log_std.exp().diag()), posterior)

    found = minimise(gap, [mean, log_std])
    squared = (precision[0, 1] ** 2 / (precision[0, 0] * precision[1, 1])).item()
    return abs(found + 0.5 * torch.log1p(torch.tensor(-squared)).item())

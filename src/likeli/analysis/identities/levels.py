"""Deeper hierarchies, other codes, flows."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributions as D

from likeli.analysis.check import identity
from likeli.analysis.gaussian_fit import fit_gaussian
from likeli.analysis.identities.truth import minimise
from likeli.distributions import gaussian_product
from likeli.information import full_gaussian_kl, gaussian_kl
from likeli.models.autoencoder import CAE, DAE
from likeli.models.flow import Flow
from likeli.models.hvae import HVAE
from likeli.models.markov_hvae import MarkovHVAE
from likeli.random import Ambient, Replay, seeded
from likeli.space import Real

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
    elbo, context, state, kl = model.elbo(x, noise=Replay(eps)), model.infer(x), model.root(Ambient(x)), []
    for level, e in zip((3, 2, 1), eps):
        p = model.prior(level, state)
        q = model.posterior(level, state, context, p)
        a, b = q.base_dist, p.base_dist  # type: ignore[attr-defined]
        kl.append(D.kl_divergence(D.Normal(a.loc, a.scale), D.Normal(b.loc, b.scale)).sum(1))
        state = model.descend(level, state, a.loc + a.scale * e)
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

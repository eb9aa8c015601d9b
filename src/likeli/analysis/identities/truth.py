"""A problem whose every number is known: data of a linear-Gaussian model, and the VAE that is that model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch import distributions as D

from likeli.information import kl
from likeli.models.ppca import PPCA
from likeli.models.vae import VAE
from likeli.nn.posterior import PosteriorFamily
from likeli.observation import Gaussian
from likeli.random import Ambient, seeded
from likeli.space import Real


def linear_data(n: int = 400, d: int = 6, latents: int = 2, *, noise: float = 0.5, seed: int = 0) -> Tensor:
    """n rows of x = Wz + b + σε, (n, d) in float64; the columns of W have lengths √d, √d/2, √d/3, …"""
    with seeded(seed, "linear data"):
        basis = torch.linalg.qr(torch.randn(d, latents, dtype=torch.float64))[0]
        w = basis * (d**0.5 / torch.arange(1, latents + 1, dtype=torch.float64))
        z, e = torch.randn(n, latents, dtype=torch.float64), torch.randn(n, d, dtype=torch.float64)
        return z @ w.T + torch.randn(d, dtype=torch.float64) + noise * e


def fitted_ppca(x: Tensor, latents: int) -> PPCA:
    """PPCA at its maximum likelihood."""
    model = PPCA(Real((x.shape[1],)), latents)
    model.fit_closed_form(x)
    return model


def linear_vae(latents: int, d: int, *, family: PosteriorFamily = "full") -> VAE:
    """A VAE of two linear maps and one learned σ, in float64."""
    head = Gaussian(scale="learned")
    return VAE(Real((d,)), latents, hidden=(), head=head, posterior_family=family).double().eval()


def as_vae(ppca: PPCA, *, exact: bool = True) -> VAE:
    """The VAE that is `ppca`, with its exact posterior as encoder, or with one that is off and too wide."""
    d, latents = ppca.W.shape
    vae = linear_vae(latents, d)
    posterior = ppca.posterior(ppca.b.reshape(1, -1))
    gain = posterior.covariance_matrix[0] @ ppca.W.T / ppca.variance  # E[z|u] = gain (u − b)
    tril = posterior.scale_tril[0]
    rows, columns = torch.tril_indices(latents, latents, -1)
    if not exact:
        gain, tril = 0.7 * gain, torch.diag_embed(1.5 * tril.diagonal())
    spread = torch.cat([tril.diagonal().log(), tril[rows, columns]])
    with torch.no_grad():
        vae.decoder[-1].weight.copy_(ppca.W)
        vae.decoder[-1].bias.copy_(ppca.b)
        vae.head.log_width.copy_(0.5 * ppca.variance.log())
        vae.encoder[-1].weight.copy_(torch.cat([gain, torch.zeros(len(spread), d, dtype=torch.float64)]))
        vae.encoder[-1].bias.copy_(torch.cat([-gain @ ppca.b, spread]))
    return vae.requires_grad_(False)


def expected_bound(vae: VAE, x: Tensor, context: Tensor | None = None) -> Tensor:
    """The ELBO of a linear VAE with its expectation done in closed form, (B,).

    E_q log N(x; Wz + b, σ²) = log N(x; Wm + b, σ²) − tr(W S Wᵀ)/(2σ²), with q = N(m, S).
    """
    q = vae.q(vae.infer(x) if context is None else context)
    scale = q.scale_tril if isinstance(q, D.MultivariateNormal) else q.base_dist.scale.diag_embed()
    spread = (vae.decoder[-1].weight @ scale).square().sum((-2, -1)) / (2 * (2 * vae.head.log_width).exp())
    prior = vae.prior(1, vae.root(Ambient(x)))
    return vae.observation(q.mean).log_prob(x) - spread - kl(q, prior)


def minimise(loss: Callable[[], Tensor], parameters: list[Tensor], steps: int = 500) -> float:
    """L-BFGS to the bottom; the final loss."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=steps, tolerance_grad=1e-13, tolerance_change=1e-16, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    with seeded(0, "minimise"):
        optimiser.step(closure)
    return loss().item()

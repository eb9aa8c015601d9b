"""Objectives that fit ∇log p, which knows no Z.

With ψ = ∇log f and data u ~ q, E_q ½‖ψ − ∇log q‖² is, up to a constant,

    implicit    E [½‖ψ‖² + tr ∂ψ/∂u]
    sliced      E [½‖ψ‖² + vᵀ ∂ψ/∂u v],                    v of independent signs
    denoising   E ½‖ψ(u + σξ) + ξ/σ‖², ξ ~ N(0, I), of the density of u + σξ in place of q.

Source: Hyvärinen (2005), JMLR 6; Song et al. (2019), arXiv:1905.07088; Vincent (2011), Neural Computation 23.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from likeli.random import Noise

LogF = Callable[[Tensor], Tensor]


def score_of(log_f: LogF, u: Tensor) -> tuple[Tensor, Tensor]:
    """ψ(u) with its graph, and the u that it hangs on."""
    u = u.detach().requires_grad_()
    (psi,) = torch.autograd.grad(log_f(u).sum(), u, create_graph=True)
    return psi, u


def implicit(log_f: LogF, u: Tensor) -> Tensor:
    """½‖ψ‖² + tr ∂ψ/∂u, (B, …) → (B,); one reverse pass a cell."""
    with torch.enable_grad():
        psi, u = score_of(log_f, u)
        flat, trace = psi.flatten(1), torch.zeros_like(psi.flatten(1)[:, 0])
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), u, create_graph=True)
            trace = trace + row.flatten(1)[:, i]
        return 0.5 * flat.square().sum(1) + trace


def sliced(log_f: LogF, u: Tensor, noise: Noise) -> Tensor:
    """½‖ψ‖² + vᵀ (∂ψ/∂u) v, (B, …) → (B,); one further reverse pass."""
    v = torch.where(noise.uniform(*u.shape[1:]).to(u) < 0.5, -1.0, 1.0).to(u)
    with torch.enable_grad():
        psi, u = score_of(log_f, u)
        (row,) = torch.autograd.grad((psi * v).sum(), u, create_graph=True)
        return (0.5 * psi.square() + v * row).flatten(1).sum(1)


def denoising(log_f: LogF, u: Tensor, sigma: float, noise: Noise) -> Tensor:
    """½ σ² ‖ψ(u + σξ) + ξ/σ‖², (B, …) → (B,)."""
    xi = noise.normal(*u.shape[1:]).to(u)
    with torch.enable_grad():
        psi, _ = score_of(log_f, u + sigma * xi)
        return 0.5 * (sigma * psi + xi).square().flatten(1).sum(1)

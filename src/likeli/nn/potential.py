"""A denoising network as the gradient of one number, so that what it predicts has no circulation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Potential(nn.Module):
    """∇_z Φ in place of f, with Φ(z, γ, y) = ⟨z, f(z, γ, y)⟩:  ∇Φ = f + (∂f/∂z)ᵀ z.

    Every reading of a denoiser's output is linear in it and in z, so that the score is then −∇ of an energy at each noise
    level, ∮ score · dz = 0.  A free network's is not.  The inner product is of either sign, as ε, x̂, v and velocities need it,
    where ‖f‖² or ‖z − f‖² is bounded on one side.  One evaluation costs a pass forward and one back.

    Arguments:
        net: f, (z (B, ...), γ (B,), y) → a tensor of z's shape.

    Source: Salimans & Ho (2021), Should EBMs model the energy or the score?; Du et al. (2023), arXiv:2302.11552, section 4.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def potential(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        """Φ, (B, ...) → (B,)."""
        return (z * self.net(z, gamma, y)).flatten(1).sum(1)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        """∇_z Φ, of z's shape; it can be differentiated where gradients are kept."""
        kept = torch.is_grad_enabled()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            z = z if z.requires_grad else z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.potential(z, gamma, y).sum(), z, create_graph=kept)
        found: Tensor = slope
        return found

"""A control variate for the diffusion loss: the denoiser of N(0, I), whose error is known in closed form.

At small noise every denoiser errs by nearly all of ε, so that ‖ε − ε̂‖² follows ‖ε‖² and says little; the difference to what
the reference errs by, at the same draw, varies far less, and the reference's own integral over γ is added back exactly.
With p = sigmoid(−γ):  ε̂_ref = σ z/(α² + σ²),  E_ε ‖ε − ε̂_ref‖² = p² D + p (1 − p) ‖x‖².
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from likeli.diffusion.schedule import Point


def reference_error(u: Tensor, eps: Tensor, at: Point) -> Tensor:
    """‖ε − ε̂_ref‖² at z = α u + σ ε, (B,)."""
    return reference_cells(u, eps, at.like(u)).flatten(1).sum(1)


def reference_cells(u: Tensor, eps: Tensor, at: Point) -> Tensor:
    """(ε − ε̂_ref)² cell by cell, (B, ...), at a point that is ready to multiply u."""
    scale = at.alpha / (at.alpha.square() + at.sigma.square())
    return (scale * (at.alpha * eps - at.sigma * u)).square()


def reference_integral(u: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """∫ E_ε ‖ε − ε̂_ref‖² dγ from γ = `first` to `last`, (B,)."""
    fall = (-first).sigmoid() - (-last).sigmoid()
    squares = u.square().flatten(1).sum(1)
    return (softplus(-first) - softplus(-last) - fall).to(u) * u[0].numel() + fall.to(u) * squares

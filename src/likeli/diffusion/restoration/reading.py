"""A reading y = A x + σ ξ as a sampler sees it: in model units, scaled so that A has about unit gain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from likeli.diffusion.restoration.operator import PROBES, Operator
from likeli.errors import Unsupported, require
from likeli.spaces import Space

DIAGONAL = 1e-9  # relative: how far A Aᵀ v may be from a diagonal's product with v
CONSISTENT = 1e-13  # relative: of a residual that a projection stops at


@dataclass(frozen=True)
class Reading:
    """y − A·mean = A (unit ⊙ u) + σ ξ for u in model units, all over the gain of A: no scale of the user's matters.

    Arguments:
        operator: A, in the user's units.
        y: (B, *out) float64, what is left of the reading.
        sigma: σ over the gain.
        unit: (*shape) float64, one model unit in the user's.
        gain: the root of the mean square of A ⊙ unit's rows.
        gram: the diagonal of A Aᵀ, (1 or B, *out), where it is diagonal.
        ends: least and largest u of a cell, where there are such; no mean of x lies outside them.
    """

    operator: Operator
    y: Tensor
    sigma: float
    unit: Tensor
    gain: float
    gram: Tensor | None = None
    ends: tuple[float, float] | None = None

    def A(self, u: Tensor) -> Tensor:
        """(B, *shape) in model units → (B, *out)."""
        return self.operator.A(u * self.unit.to(u)) / self.gain

    def adjoint(self, r: Tensor) -> Tensor:
        """(B, *out) → (B, *shape)."""
        return self.operator.adjoint(r) * self.unit.to(r) / self.gain

    def residual(self, u: Tensor) -> Tensor:
        """y − A u, and 0 where nothing was read."""
        return torch.where(self.operator.seen().to(u.device), self.y.to(u) - self.A(u), 0)

    def solve(self, r: Tensor, ratio: Tensor | float) -> Tensor:
        """(ratio + A Aᵀ)⁻¹ r: exact where A Aᵀ is diagonal, else by conjugate gradients; 0 where nothing was read."""
        if self.gram is not None:
            total = self.gram.to(r) + ratio
            return torch.where(total > 0, r / torch.where(total > 0, total, 1), 0)
        cells = math.prod(self.operator.out)
        return conjugate_gradients(lambda v: self.A(self.adjoint(v)) + ratio * v, r, 2 * cells, CONSISTENT)

    def projected(self, u: Tensor) -> Tensor:
        """The nearest u' with A u' = y: u + Aᵀ (A Aᵀ)⁻¹ (y − A u)."""
        return u + self.adjoint(self.solve(self.residual(u), 0.0))

    def at(self, rows: Tensor) -> Reading:
        """The readings of some rows, which may be named more than once."""
        gram = self.gram if self.gram is None or len(self.gram) == 1 else self.gram[rows]
        return replace(self, operator=self.operator.at(rows), y=self.y[rows], gram=gram)


def affine(space: Space) -> tuple[Tensor, Tensor]:
    """(unit, mean) of x = unit ⊙ u + mean, (*shape) float64; a grey level stands at the middle of its bin.

    Raises:
        Unsupported: the model's cells are not the user's on a straight scale.
    """
    straight = space.unit is not None or (space.symbols > 0 and space.spacing and space.categorical is None)
    if not straight or space.model_shape != space.shape:
        takes = "reals on a straight scale and grey levels"
        raise Unsupported(f"linear readings of {space.kind()}: only {takes} have them; a mask without noise needs none")
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, *[1] * len(space.shape)).expand(2, *space.shape)
    low, high = space.to_model(ends if not space.symbols else ends.long(), torch.float64)
    unit = space.unit.expand(space.shape) if space.unit is not None else 1 / (high - low)
    return unit, -low * unit


def take_reading(
    operator: Operator, y: Tensor, sigma: float, unit: Tensor, mean: Tensor, ends: tuple[float, float] | None = None
) -> Reading:
    """The reading of checked y (B, *out).

    Raises:
        InputError: σ is negative or not finite; A reads nothing.
    """
    require(math.isfinite(sigma) and sigma >= 0, "sigma", "a number of at least 0, in the data's units", sigma)
    seen = operator.seen()
    plain = Reading(operator, y, sigma, unit, 1.0, None, ends)
    gram, diagonal = _gram(plain, max(len(seen), 1))
    counted = seen.expand(gram.shape)
    gain = gram[counted].mean().clamp(min=0).sqrt().item()
    require(gain > 0, "operator", "one that reads something", "A = 0")
    left = torch.where(seen, y - operator.A(mean[None]), 0) / gain
    return replace(plain, y=left, sigma=sigma / gain, gain=gain, gram=gram / gain**2 if diagonal else None)


def _gram(reading: Reading, rows: int) -> tuple[Tensor, bool]:
    """A Aᵀ 1, (rows, *out), and whether A Aᵀ is diagonal, which a random v tells almost surely: A Aᵀ v = (A Aᵀ 1) ⊙ v."""
    generator, out = torch.Generator().manual_seed(0), reading.operator.out
    v = torch.randn(PROBES, rows, *out, dtype=torch.float64, generator=generator)
    both = [reading.A(reading.adjoint(w)) for w in (torch.ones_like(v[0]), *v)]
    gram = both[0]
    gaps = [(found - gram * w).abs().max().item() for found, w in zip(both[1:], v)]
    diagonal = max(gaps) <= DIAGONAL * gram.abs().max().item()
    return (gram if diagonal else torch.stack([a * w for a, w in zip(both[1:], v)]).mean(0).abs()), diagonal


def conjugate_gradients(apply: Callable[[Tensor], Tensor], r: Tensor, iterations: int, tolerance: float) -> Tensor:
    """M⁻¹ r of each row by itself, M symmetric and positive semidefinite; a row stops where its residual is small enough.

    Arguments:
        apply: v → M v, (B, ...) row by row.
        r: (B, ...).
        iterations: at most.
        tolerance: of a row's residual, relative.

    Source: Hestenes & Stiefel (1952), Journal of Research of the National Bureau of Standards 49.
    """
    solution, way = torch.zeros_like(r), r
    square = _dots(r, r)
    enough = square * tolerance**2
    for _ in range(iterations):
        live = square > enough
        if not bool(live.any()):
            break
        pulled = apply(way)
        curve = _dots(way, pulled)
        live &= curve > 0  # elsewhere M is not positive along the way, and what there is must do
        step = torch.where(live, square / torch.where(live, curve, 1), 0)
        solution, r = solution + step * way, r - step * pulled
        after = _dots(r, r)
        way = r + torch.where(live, after / torch.where(live, square, 1), 0) * way
        square = torch.where(live, after, 0)
    return solution


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each row, ready to multiply one."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))

"""Whether a sampler draws from the density that its model states.

Moves that leave p alone and are reversible make pairs (x, x') with the same law in either order, if x was drawn from p.  So
for any f the sign of f(x') − f(x) is a coin's, and a model whose sampler and log p disagree shows it in a drift: of log p
itself, of a column, a square or a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor

from likeli.contract import GenerativeModel, Knows
from likeli.errors import Unsupported, require
from likeli.evaluation.cross_fitted import second_order
from likeli.evaluation.features import pooled_features
from likeli.evaluation.likelihood import score
from likeli.evaluation.two_sample import FEWEST
from likeli.random import seeded
from likeli.spaces import Space, Table
from likeli.spaces.base import ended

FLIPS = 999


@dataclass(frozen=True)
class SamplerTest:
    """What the moves show.

    Arguments:
        p: chance of so strong a drift if the sampler draws from the stated density; exact.
        statistic: the largest |Σ_i d_i| / √Σ_i d_i² over functions f, d_i = f(x'_i) − f(x_i).
        drift: the function that has it: `log p`, or `a column, square or product`.
        rise: mean of log p(x') − log p(x), nats; above 0 where the sampler is wider than its density.
        accepted: share of proposed moves that were made; with few of them the test sees little.
        moved: share of rows that are not where they were.
        n, steps: rows, and moves of each.
    """

    p: float
    statistic: float
    drift: str
    rise: float
    accepted: float
    moved: float
    n: int
    steps: int


@dataclass(frozen=True)
class Movable:
    """How the cells of a row can move.

    Arguments:
        whole: (cells,) bool, whether values are whole numbers.
        sizes: (cells,), how many values 0, 1, … there are; 0 where they are not finitely many.
        lowest: (cells,), the least value.
        held: (B, cells) of values that stay, or None.
    """

    whole: Tensor
    sizes: Tensor
    lowest: Tensor
    held: Tensor | None = None


@singledispatch
def movable_cells(space: Space, x: Tensor) -> Movable:
    """How the cells of rows x (B, cells) can move."""
    sizes = torch.full((space.dimensions,), space.symbols)
    mass = torch.full((space.dimensions,), space.measure == "mass")
    return Movable(mass, sizes, torch.where(mass, 0.0, -torch.inf))


@movable_cells.register
def _(space: Table, x: Tensor) -> Movable:
    sizes = torch.tensor([len(c.categories) for c in space.columns])
    held = torch.zeros(x.shape, dtype=torch.bool)
    for i, column in enumerate(space.columns):  # no move by a real number leads to an exact value, so none may lead away
        if column.type == "real" and column.marginal.atoms:
            held[:, i] = torch.isin(x[:, i].double(), torch.tensor(list(column.marginal.atoms), dtype=torch.float64))
    return Movable(space.discrete, sizes, torch.where(sizes > 0, 0.0, -torch.inf), held)


def sampler_test(
    model: GenerativeModel, y: Tensor | None = None, *, n: int = 1000, steps: int = 20, seed: int = 0
) -> SamplerTest:
    """Draw n rows, move each by Metropolis steps that leave the stated density alone, and look whether anything drifts.

    A proposal changes some cells, by symbols drawn evenly or by the difference of two other samples, times 1 or less; both are
    as likely to and fro.  What no move from a sample can reach stays unseen, such as a mode that the sampler leaves out.

    Arguments:
        model: of exact log p.
        y: (n, *condition.shape) for a conditional model.
        n: rows, at least 20.
        steps: proposals for each row.
        seed: of the samples and the moves.

    Raises:
        Unsupported: log p is not exact.

    Source: Metropolis et al. (1953); ter Braak (2006), Stat. Comput. 16, for the differences; Besag & Clifford (1989),
        Biometrika 76.
    """
    require(n >= FEWEST, "n", f"at least {FEWEST} rows", n)
    require(steps >= 1, "steps", "at least 1", steps)
    space = model.space
    x = model.sample(n, y, seed=seed)
    pool = model.sample(2 * n, None if y is None else y.repeat(2, *[1] * (y.ndim - 1)), seed=seed + 1)
    with seeded(seed, "moves"):
        start = log_p = _exact(model, x, y)
        at, accepted = x, 0.0
        for _ in range(steps):
            proposed, valid = _proposal(space, at, pool)
            proposed = torch.where(valid.reshape(-1, *[1] * (x.ndim - 1)), proposed, at)
            there = _exact(model, proposed, y)
            go = valid & (torch.rand(n, dtype=torch.float64).log() < there - log_p)
            at = torch.where(go.reshape(-1, *[1] * (x.ndim - 1)), proposed, at)
            log_p, accepted = torch.where(go, there, log_p), accepted + float(go.double().mean()) / steps
    moved = (at != x).reshape(n, -1).any(1)
    if not moved.any():
        return SamplerTest(1.0, 0.0, "nothing", 0.0, accepted, 0.0, n, steps)
    found, _, _ = pooled_features(x, at, space)
    f = second_order(found.rows)
    d = np.concatenate([(log_p - start).numpy()[:, None], f[n:] - f[:n]], 1)
    changed = np.abs(d).max(0) > 1e-9
    d = d[:, changed]
    signs = np.random.default_rng([seed, 0x51]).choice([-1.0, 1.0], size=(FLIPS + 1, n))
    signs[0] = 1.0
    drift = np.abs(signs @ d) / np.sqrt((d**2).sum(0))
    largest, which = drift.max(1), int(drift[0].argmax())
    named = "log p" if which == 0 and changed[0] else "a column, square or product"
    p = float((largest >= largest[0] * (1 - 1e-9)).mean())
    rise = float((log_p - start).mean())
    return SamplerTest(p, float(largest[0]), named, rise, accepted, float(moved.double().mean()), n, steps)


def _exact(model: GenerativeModel, x: Tensor, y: Tensor | None) -> Tensor:
    """log p of each row, float64."""
    parts = list(score(model, x, y))
    if any(part.knows is not Knows.EXACT for part in parts):
        raise Unsupported(f"a sampler can be held against its own density where that is exact, not {parts[0].knows.value}")
    return torch.cat([part.value.double().cpu() for part in parts])


def _proposal(space: Space, x: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    """A changed copy of every row, symmetric in to and fro, and whether it is a row of the space at all."""
    n, flat = len(x), x.reshape(len(x), -1).double()
    cells, width = movable_cells(space, flat), flat.shape[1]
    chosen = torch.rand(n, width) < torch.rand(n, 1).pow(2)  # from one cell to all of them
    chosen[torch.arange(n), torch.randint(width, (n,))] = True
    first, second = (pool.reshape(len(pool), -1)[torch.randint(len(pool), (n,))].double() for _ in range(2))
    step = (first - second) * torch.where(torch.rand(n, 1) < 0.3, 1.0, torch.rand(n, 1) ** 2)
    jump = flat + torch.where(cells.whole, step.round(), step)
    drawn = (torch.rand(n, width, dtype=torch.float64) * cells.sizes).floor()
    even = (torch.rand(n, 1) < 0.5) & (cells.sizes > 0)
    proposed = torch.where(chosen, torch.where(even, drawn, jump), flat)
    if cells.held is not None:
        proposed = torch.where(cells.held, flat, proposed)
    high = torch.where(cells.sizes > 0, cells.sizes - 1, torch.inf)
    valid = ((proposed >= cells.lowest) & (proposed <= high)).all(1)
    proposed = torch.where(valid[:, None], proposed, flat)
    if space.end is not None:
        valid &= (ended(proposed.long(), space.end) == proposed).all(1)
    return proposed.to(x.dtype).reshape(x.shape), valid

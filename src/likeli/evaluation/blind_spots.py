"""What each member of the panel sees, measured: how often it fires on pairs of laws that differ in one way only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from likeli.errors import require
from likeli.evaluation.panel import two_sample_test

Pair = tuple[np.ndarray, np.ndarray]
CELLS = 6  # of a side of the fine chequers
COPIES = 3  # of each duplicated row


def equal(rng: np.random.Generator, n: int) -> Pair:
    """N(0, I) twice: what fires here is a false alarm."""
    return rng.normal(size=(n, 2)), rng.normal(size=(n, 2))


def shifted(rng: np.random.Generator, n: int) -> Pair:
    """N(0, I) against N((½, 0), I)."""
    return rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + [0.5, 0]


def rescaled(rng: np.random.Generator, n: int) -> Pair:
    """N(0, I) against N(0, 3² I): all means are equal."""
    return rng.normal(size=(n, 2)), 3 * rng.normal(size=(n, 2))


def correlated(rng: np.random.Generator, n: int) -> Pair:
    """Correlation 0 against 0.6: all marginals are equal."""
    y = rng.normal(size=(n, 2))
    return rng.normal(size=(n, 2)), np.stack([y[:, 0], 0.6 * y[:, 0] + 0.8 * y[:, 1]], 1)


def without_a_mode(rng: np.random.Generator, n: int) -> Pair:
    """Eight modes on a ring against seven of them."""

    def ring(modes: int) -> np.ndarray:
        at = rng.integers(0, modes, n) * (np.pi / 4)
        return np.stack([np.cos(at), np.sin(at)], 1) + 0.1 * rng.normal(size=(n, 2))

    return ring(8), ring(7)


def chequered(rng: np.random.Generator, n: int) -> Pair:
    """Uniform on a square against the dark fields of a board of 6 × 6: all marginals are equal, the correlation is −0.09."""
    field = rng.integers(0, CELLS, (n, 2))
    field[:, 1] += (field.sum(1) + 1) % 2  # to the next dark one of the row
    return rng.uniform(size=(n, 2)), ((field % CELLS) + rng.uniform(size=(n, 2))) / CELLS


def repeated(rng: np.random.Generator, n: int) -> Pair:
    """One law, but each row of the second set stands there three times."""
    few = rng.normal(size=(-(-n // COPIES), 2))
    return rng.normal(size=(n, 2)), np.repeat(few, COPIES, 0)[:n]


PAIRS: dict[str, Callable[[np.random.Generator, int], Pair]] = {
    "nothing": equal,
    "a shift": shifted,
    "a scale": rescaled,
    "a correlation": correlated,
    "a missing mode": without_a_mode,
    "fine structure": chequered,
    "duplicated rows": repeated,
}


@dataclass(frozen=True)
class BlindSpots:
    """How often each member fires, by what differs.

    Arguments:
        power: by difference, by member: the share of repeats in which its own p is at most the level.
        warned: by difference, the share of repeats in which the panel gave a warning.
        n: rows of each set.
        repeats: of each difference.
        level: of each member by itself.
    """

    power: dict[str, dict[str, float]]
    warned: dict[str, float]
    n: int
    repeats: int
    level: float

    def table(self) -> list[list[str]]:
        """A header and a line for each difference, in percent."""
        members = list(next(iter(self.power.values())))
        lines = [
            [name, *(f"{100 * share:.0f}" for share in (*of.values(), self.warned[name]))] for name, of in self.power.items()
        ]
        return [["what differs", *members, "warned"], *lines]


def blind_spots(n: int = 200, repeats: int = 20, *, level: float = 0.05, seed: int = 0) -> BlindSpots:
    """Run the panel on pairs of laws that differ in a shift, a scale, a correlation, a mode, in fine structure, by copies.

    Arguments:
        n: rows of each set, at least 20.
        repeats: of each pair; the standard error of a share is at most ½/√repeats.
        level: of each member by itself.
        seed: of all draws.

    Raises:
        InputError: a number outside its range.
    """
    require(n >= 20, "n", "at least 20 rows", n)
    require(repeats >= 1, "repeats", "at least 1", repeats)
    power: dict[str, dict[str, float]] = {}
    warned: dict[str, float] = {}
    for place, (name, pair) in enumerate(PAIRS.items()):
        found = []
        for k in range(repeats):
            x, y = pair(np.random.default_rng([seed, place, k]), n)
            found.append(two_sample_test(x, y, level=level, permutations=round(10 / level) - 1, seed=seed + k))
        members = [m.name for m in found[0].members]
        power[name] = {m: float(np.mean([r.members[i].p <= level for r in found])) for i, m in enumerate(members)}
        warned[name] = float(np.mean([bool(r.warnings) for r in found]))
    return BlindSpots(power, warned, n, repeats, level)

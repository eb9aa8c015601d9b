"""Executable identities: a statement that two roads lead to one number, with how closely they must agree."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from likeli.errors import InputError, nearest
from likeli.random import seeded

_CHECKS: dict[str, Check] = {}


@dataclass(frozen=True)
class Check:
    """One identity.

    Arguments:
        id: short unique name.
        rows: rows of the specification it stands for: R20, I6, …
        title: the identity, in words or symbols.
        tolerance: the largest error that passes.
        measure: gives the measured error; a standard score where the check is statistical.
        slow: takes more than a few seconds.
    """

    id: str
    rows: tuple[str, ...]
    title: str
    tolerance: float
    measure: Callable[[], float]
    slow: bool = False

    def run(self) -> Result:
        """Measure the error, in a random state of its own; an exception is a failure with its message as the note."""
        start = time.perf_counter()
        try:
            with seeded(0, "verify", self.id):
                error, note = float(self.measure()), ""
        except Exception as failure:
            error, note = math.nan, f"{type(failure).__name__}: {failure}"
        passed = error <= self.tolerance  # NaN fails
        return Result(self.id, self.rows, self.title, error, self.tolerance, passed, time.perf_counter() - start, note)


@dataclass(frozen=True)
class Result:
    """What a check measured.

    Arguments:
        id, rows, title, tolerance: the check's.
        error: measured.
        passed: whether error ≤ tolerance.
        seconds: taken.
        note: the exception, if there was one.
    """

    id: str
    rows: tuple[str, ...]
    title: str
    error: float
    tolerance: float
    passed: bool
    seconds: float
    note: str = ""


def identity(
    *rows: str, title: str, tolerance: float, slow: bool = False
) -> Callable[[Callable[[], float]], Callable[[], float]]:
    """Register a function that measures an error as a check; its name, with dashes, is the check's id.

    Arguments:
        rows: of the specification.
        title, tolerance, slow: see `Check`.
    """

    def register(measure: Callable[[], float]) -> Callable[[], float]:
        name = measure.__name__.strip("_").replace("_", "-")
        if name in _CHECKS:
            raise TypeError(f"two checks are called {name}")
        _CHECKS[name] = Check(name, rows, title, tolerance, measure, slow)
        return measure

    return register


def registered_checks() -> list[Check]:
    """Every check registered so far."""
    return list(_CHECKS.values())


__all__ = ["Check", "Result", "checks", "run"]


def checks() -> list[Check]:
    """Every check, in the order of the rows that it stands for."""
    return sorted(registered_checks(), key=lambda c: (_order(c.rows[0]), c.id))


def run(only: Iterable[str] | None = None, *, slow: bool = False) -> Iterator[Result]:
    """Run checks one after the other, each result as it comes.

    Arguments:
        only: ids of checks, or rows (`R20`, `I6`) whose checks are wanted; all if not given.
        slow: with `only` not given, whether to run the slow ones too.

    Raises:
        InputError: a name that is neither a check nor a row.
    """
    everything = checks()
    if only is None:
        chosen = [c for c in everything if slow or not c.slow]
    else:
        names = list(only)
        known = {c.id for c in everything} | {row for c in everything for row in c.rows}
        for name in names:
            if name not in known:
                raise InputError(f"only: expected a check or a row of the list, got {name[:80]!r}{nearest(name, known)}")
        chosen = [c for c in everything if c.id in names or set(c.rows) & set(names)]
    return (check.run() for check in chosen)


def _order(row: str) -> tuple[int, int]:
    match = re.fullmatch(r"([A-Z])(\d+)", row)
    assert match is not None
    return "RIBMNE".find(match[1]), int(match[2])

"""Executable identities: a statement that two roads lead to one number, with how closely they must agree."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

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

"""Run the identities between the rungs on this machine, and say how closely each holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from likeli.analysis import identities as identities  # registers the checks
from likeli.analysis.check import Check, Result, registered_checks
from likeli.errors import InputError, nearest

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

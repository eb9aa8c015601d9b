"""run the identities that tie the models together, on this machine

likeli verify                    every quick check: measured error beside its tolerance
likeli verify --list             what there is, row by row
likeli verify --only R20,I6      the checks of these rows, or checks by their own name
likeli verify --slow             the long ones too

Exit code 1 if any check fails.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from likeli.cli.output import emit, log, table
from likeli.errors import FAILED, OK

if TYPE_CHECKING:
    from likeli.theory.check import Check, Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--only", metavar="R..,I..", help="rows or names of checks, separated by commas")
    parser.add_argument("--slow", action="store_true", help="run the long checks too")


def run(args: argparse.Namespace) -> int:
    """List or run the checks."""
    from likeli.theory import check as verify

    only = args.only.split(",") if args.only else None
    if args.list:
        checks = [c for c in verify.checks() if not only or c.id in only or set(c.rows) & set(only)]
        rows = [[" ".join(c.rows), c.id, f"{c.tolerance:.3g}", "slow" if c.slow else "", c.title] for c in checks]
        emit(args, {"checks": [_entry(c) for c in checks]}, table(["rows", "check", "tolerance", "", "identity"], rows))
        return OK
    results = []
    for result in verify.run(only, slow=args.slow):
        results.append(result)
        log(f"likeli: {result.id}: {'ok' if result.passed else 'FAILED'} in {result.seconds:.1f} s")
    emit(args, {"checks": [_entry(r) for r in results], "passed": all(r.passed for r in results)}, _table(results))
    return OK if all(r.passed for r in results) else FAILED


def _entry(found: Check | Result) -> dict[str, Any]:
    names = ("id", "rows", "title", "tolerance", "slow", "error", "passed", "seconds", "note")
    return {name: getattr(found, name) for name in names if hasattr(found, name)}


def _table(results: list[Result]) -> str:
    rows = [
        [" ".join(r.rows), r.id, f"{r.error:.2e}", f"{r.tolerance:.2e}", "ok" if r.passed else f"FAILED {r.note}".strip()]
        for r in results
    ]
    passed = sum(r.passed for r in results)
    return table(["rows", "check", "error", "tolerance", ""], rows) + f"\n{passed} of {len(results)} identities hold"

"""run the identities that tie the models together, on this machine

likeli verify                    every quick check: measured error beside its tolerance
likeli verify --list             what there is, row by row
likeli verify --only R20,I6      the checks of these rows, or checks by their own name
likeli verify --slow             the long ones too

Exit code 1 if any check fails.
"""

from __future__ import annotations

import argparse

from likeli.cli.options import Parser
from likeli.cli.output import aligned, emit, log
from likeli.errors import FAILED, OK


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--only", type=list[str], metavar="R..,I..", help="rows or names of checks, separated by commas")
    parser.add_argument("--slow", action="store_true", help="run the long checks too")


def run(args: argparse.Namespace) -> int:
    """List or run the checks."""
    from likeli.theory import check as verify

    only = set(args.only or ())
    if args.list:
        checks = [c for c in verify.checks() if not only or c.id in only or only & set(c.rows)]
        listed = [[" ".join(c.rows), c.id, f"{c.tolerance:.3g}", "slow" if c.slow else "", c.title] for c in checks]
        plain = [{k: v for k, v in vars(c).items() if k != "measure"} for c in checks]
        emit(args, {"checks": plain}, aligned(["rows", "check", "tolerance", "", "identity"], listed))
        return OK
    results, rows = [], []
    for r in verify.run(args.only, slow=args.slow):
        results.append(r)
        log(f"likeli: {r.id}: {'ok' if r.passed else 'FAILED'} in {r.seconds:.1f} s")
        said = "ok" if r.passed else f"FAILED {r.note}".strip()
        rows.append([" ".join(r.rows), r.id, f"{r.error:.2e}", f"{r.tolerance:.2e}", said])
    passed = sum(r.passed for r in results)
    text = f"{aligned(['rows', 'check', 'error', 'tolerance', ''], rows)}\n{passed} of {len(results)} identities hold"
    emit(args, {"checks": [vars(r) for r in results], "passed": passed == len(results)}, text)
    return OK if passed == len(results) else FAILED

"""`python -m benchmarks [names] [--json]`: medians of both sides and paired ratios; above 1, ours is better."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from benchmarks._harness import entries, interpreter, run_entry


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"entries to run (all if none): {', '.join(entries())}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs (default 5)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to pin both sides to")
    parser.add_argument("--seconds", type=int, help="CPU seconds of every fit that has a budget (default: the entry's own)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with files such as mnist.npz")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(entries()))
    if unknown:
        parser.error(f"unknown entry {', '.join(unknown)}; known: {', '.join(entries())}")
    needed = {interpreter(name, side) for name in args.names or entries() for side in ("ours", "peer")}
    missing = [str(p) for p in needed if not p.exists()]
    if missing:
        parser.error(f"{missing[0]} does not exist; run `make peers` first")
    rows = []
    for name in args.names or entries():
        for row in run_entry(name, args.repeats, args.data, args.core, args.seconds):
            rows.append(row)
            if not args.json:
                print_row(row)
    if args.json:
        print(json.dumps({"rows": rows}, indent=1))
    return 0


def print_row(row: dict) -> None:
    """One row in words."""
    ratio = "{median:.2f} ({low:.2f} to {high:.2f})".format(**row["ratio"])
    print(f"{row['entry']} {row['variant'] or ''}: {ratio} times the peer's {row['metric']}, {row['pairs']} pairs")
    for side in ("ours", "peer"):
        print(f"  {side:5}", "  ".join(f"{k} {v:.6g}" for k, v in row[side].items()))


if __name__ == "__main__":
    raise SystemExit(main())

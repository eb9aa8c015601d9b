"""whether two sets of rows come from one distribution: a panel of tests with one p-value

likeli test runs/x                       samples of a run against the test split of its data, which it was not fitted to
likeli test runs/x --metrics             also distances, precision, recall, density, coverage, with training rows as the floor
likeli test runs/x rows.csv              samples of a run against a file
likeli test table.csv@train table.csv@test      two parts of one source
likeli test rows.csv other.csv           two files with the same columns

A and B are run folders, which stand for their samples, or DATA; @train, @valid or @test after a name takes that part of the
data, for a run of those that it was fitted on.  The panel is mean, marginals, energy, mmd and classifier, with Holm's
correction: at equal distributions the chance that any fires is at most the level.  A star marks what fired; the others say
what they are blind to; --blind-spots alone measures that, on pairs of laws that differ in one way only, in some minutes.
Exit code 0 whatever is found.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import PART, load_plugins, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import aligned, emit
from likeli.errors import require

if TYPE_CHECKING:
    from likeli.data import Data


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", nargs="?", help="a run folder, or a data source")
    parser.add_argument("b", metavar="B", nargs="?", help="another; a run's own test split if not given")
    parser.add_argument("--rows", type=int, metavar="N", help="of each set at most [2000]; the cost grows as N²")
    parser.add_argument("--level", type=float, default=0.05, metavar="A", help="chance of a false alarm [0.05]")
    parser.add_argument("--permutations", type=int, default=499, metavar="B", help="of the labels [499]")
    parser.add_argument("--metrics", action="store_true", help="of one run: distances, coverage, … beside training rows")
    parser.add_argument("--blind-spots", action="store_true", help="measure what each member of the panel sees")
    parser.add_argument("--repeats", type=int, default=20, metavar="R", help="of each pair of --blind-spots [20]")
    parser.share("--types", "--seed")


def run(args: argparse.Namespace) -> None:
    """Take the rows of both, test, print."""
    from likeli.evaluation.panel import two_sample_test
    from likeli.evaluation.sample_metrics import sample_metrics

    if args.blind_spots:
        _blind_spots(args)
        return
    require(args.a is not None, "A", "a run folder or a data source", "nothing")
    args.rows = 2000 if args.rows is None else args.rows
    require(args.rows >= 1, "rows", "at least 1", args.rows)
    require(not args.metrics or args.b is None, "metrics", "a run alone, since they need its training rows", "A and B")
    load_plugins(args.plugin)
    x, y, options = _sets(args)
    metrics = sample_metrics(x, y, options["train"], space=options["space"], seed=args.seed or 0) if args.metrics else []
    found = two_sample_test(x, y, level=args.level, permutations=args.permutations, seed=args.seed or 0, **options)
    beside = {"metrics": [asdict(m) for m in metrics]} if args.metrics else {}
    emit(args, asdict(found) | beside, "\n".join(map(str, [found, *metrics])))


def _blind_spots(args: argparse.Namespace) -> None:
    """The table of what fires on what."""
    from likeli.evaluation.blind_spots import blind_spots

    require(args.a is None, "A", "nothing with --blind-spots", args.a)
    found = blind_spots(args.rows or 200, args.repeats, level=args.level, seed=args.seed or 0)
    header, *lines = found.table()
    about = f"% of {found.repeats} repeats with p ≤ {found.level:g}, {found.n} + {found.n} rows of two columns"
    emit(args, asdict(found), f"{about}\n{aligned(header, lines)}")


def _sets(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Rows of A and B, and the space and the training rows that go with them."""
    from likeli import checkpoint
    from likeli.cli.objects import stored_data
    from likeli.data import load_data, load_rows

    bases, parts = zip(*[_split_name(text) for text in (args.a, args.b) if text is not None])
    runs = {base: checkpoint.read(base) for base in bases if (Path(base) / "checkpoints").is_dir()}
    require(
        args.b is not None or (bool(runs) and parts[0] is None),
        "B",
        f"a second set, or for A a run folder, which {args.a} is not",
        "nothing",
    )
    if not runs:
        return _of_data(bases, parts, args)
    own, saved = next(iter(runs.items()))
    space, train = saved.model.space, None
    if args.b is None:
        bases, parts, train = (own, own), ("test", None), stored_data(saved.info).split("train")[0]
    rows: list[Any] = []
    for base, part in zip(bases, parts):
        if base in runs:
            rows.append(None if part is None else _some(rows_for(runs[base], None, part)[0], args))
        else:
            data = None if part is None else load_data(base, types=args.types, seed=args.seed or 0)
            given = load_rows(base, space)[0] if data is None or part is None else _in_space(data, part, space)
            rows.append(_some(given, args))
    n = next((len(r) for r in rows if r is not None), args.rows)
    seeds = (args.seed or 0, (args.seed or 0) + (bases[0] == bases[1]))  # two sets of one run's samples are two draws
    x, y = (runs[b].model.sample(n, seed=s) if r is None else r for r, b, s in zip(rows, bases, seeds))
    return x, y, {"space": space, "train": train}


def _split_name(text: str) -> tuple[str, str | None]:
    match = PART.fullmatch(text)
    return (text, None) if match is None else (match["base"], match["part"])


def _of_data(bases: Sequence[str], parts: Sequence[str | None], args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Rows of two sources: of tables by their columns' names, of anything else in the space of the first."""
    from likeli.data import load_data, load_rows

    data = [load_data(base, types=args.types, seed=args.seed or 0) for base in dict.fromkeys(bases)]
    first, last = data[0], data[-1]
    rows = [d.x if part is None else d.split(part)[0] for d, part in zip((first, last), parts)]
    if first is not last and first.space.names and last.space.names:
        return *(d.space.frame(_some(x, args)) for d, x in zip((first, last), rows)), {}
    if first is not last:
        rows[1] = load_rows(bases[1], first.space)[0] if parts[1] is None else _in_space(last, parts[1], first.space)
    return _some(rows[0], args), _some(rows[1], args), {"space": first.space}


def _in_space(data: Data, part: str, space: Any) -> Any:
    """One part of the data as another space codes it."""
    x = data.split(part)[0]
    return space.check(data.space.frame(x) if space.names and data.space.names else x, what=data.name, missing=True)


def _some(x: Any, args: argparse.Namespace) -> Any:
    """At most `--rows` rows, drawn by the seed."""
    from likeli.random import permutation

    return x if len(x) <= args.rows else x[permutation(len(x), args.seed or 0, "test")[: args.rows]]

"""The parser, the one place where errors become a line and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import pkgutil
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from likeli import __version__
from likeli.cli import verbs
from likeli.cli.ending import ended_by_signals, stopped_by
from likeli.cli.launch import check_processes, launch, one_of_several
from likeli.cli.options import Parser, split_dotted
from likeli.cli.output import complain, warn
from likeli.errors import FAILED, INTERRUPTED, OK, InputError, LikeliError, nearest

FIRST = ["fit", "evaluate", "sample", "score", "compare", "report", "list", "info", "demo"]  # in the help, then the others


def commands() -> list[str]:
    """The verbs, found by standing in their folder, in the order in which a newcomer meets them."""
    found = sorted(v.name for v in pkgutil.iter_modules(verbs.__path__))
    return sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def parser(argv: Sequence[str], names: Iterable[str]) -> Parser:
    """The whole command line; a verb's help may depend on `argv`."""
    common = Parser(add_help=False)
    group = common.add_argument_group("everywhere")
    group.add_argument("--json", action="store_true", help="one JSON object on standard output; logs go to standard error")
    group.add_argument("--debug", action="store_true", help="show where an error was raised")
    group.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="run this file, which may define more")
    top = Parser(
        prog="likeli",
        description="Deep generative models with one contract: fit, sample, and an honest log p(x).",
        epilog="Exit codes: 0 ok, 1 failed, 2 bad input, 3 done but for an output, 130 or 143 interrupted and saved.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"likeli {__version__}")
    verb = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name in names:
        module = import_module(f"{verbs.__name__}.{name}")
        doc = str(module.__doc__)
        sub = verb.add_parser(
            name,
            help=doc.split("\n")[0],
            description=doc,
            parents=[common],
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.words = argv
        sub.set_defaults(run=module.run, parser=sub)
        module.add_arguments(sub)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # whatever the terminal can show
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    came: list[int] = []
    try:
        with ended_by_signals(argv) as came, warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            told = set[str]()
            warnings.showwarning = lambda message, *_, **__: _once(str(message), told)  # without the place that raised it
            with one_of_several(next(iter(argv), "")):
                code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse after --help and --version
        return int(stop.code or 0)
    except BrokenPipeError:
        _drop_stdout()
        return OK
    except KeyboardInterrupt as stop:
        return _complain(str(stop) or "interrupted", argv, getattr(stop, "exit_code", INTERRUPTED), "Interrupted")
    except Exception as error:
        if came and not isinstance(error, LikeliError):  # what a library made of the signal
            return complain(str(stopped_by(came[0])), argv, 128 + came[0], "Interrupted")
        if "--debug" in argv:
            traceback.print_exc()
        return _complain(_message(error), argv, getattr(error, "exit_code", FAILED), type(error).__name__)


def _complain(message: str, argv: Sequence[str], code: int, kind: str) -> int:
    """`complain`, unless another of the processes that share this command has told it already."""
    processes = sys.modules.get("likeli.processes")  # not there yet if a signal came while torch was being imported
    if processes is not None and processes.is_silent():
        return code
    return complain(message, argv, code, kind)


def _once(text: str, told: set[str]) -> None:
    if text not in told:
        told.add(text)
        warn([text])


def _run(argv: list[str]) -> int:
    (rest, dotted), names = split_dotted(argv), commands()
    wanted = next(iter(rest), "--help")
    if not wanted.startswith("-") and wanted not in names:
        raise InputError(f"command: expected one of {', '.join(names)}, got {wanted[:80]!r}{nearest(wanted, names)}")
    front = parser(rest, [wanted] if wanted in names else names)
    if not rest:
        front.print_help()
        return OK
    args, unknown = front.parse_known_args(rest)
    if args.command is None:
        raise InputError(f"command: expected one of {', '.join(names)}")
    if unknown:
        name, known = unknown[0].split("=")[0], args.parser._option_string_actions
        hint = f"{nearest(name, known)}; see likeli {args.command} --help"
        raise InputError(f"{args.command}: unknown option {name[:80]!r}{hint}")
    several = getattr(args, "processes", None)
    check_processes(args.command, several, "processes" in args)
    if several is not None and several > 1:
        return launch(argv, several)
    args.dotted = dotted
    return int(args.run(args) or OK)


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, LikeliError):
        return text
    if isinstance(error, OSError):
        return f"{error.strerror or text}: {error.filename}" if error.filename else text
    if isinstance(error, MemoryError) or ("alloc" in text and "memory" in text):
        return f"out of memory: {text[:200] or 'the request does not fit'}; ask for less, or make the model smaller"
    return f"unexpected {type(error).__name__}: {text[:300]} (please report it; --debug shows where)"


def _drop_stdout() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno != errno.EBADF:
            raise

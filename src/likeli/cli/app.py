"""The parser, the one place where errors become a line and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import pkgutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from likeli import __version__
from likeli.cli import verbs
from likeli.cli.options import split_dotted
from likeli.cli.output import complain, log
from likeli.errors import FAILED, INTERRUPTED, OK, InputError, LikeliError, nearest

HELP = {"-h", "--help"}
COMMANDS = {v.name: import_module(f"{verbs.__name__}.{v.name}") for v in pkgutil.iter_modules(verbs.__path__)}


class Parser(argparse.ArgumentParser):
    """argparse that raises one line."""

    def error(self, message: str) -> NoReturn:
        """Raise in place of printing the usage and exiting."""
        raise InputError(f"{message}; see {self.prog} --help")


def parser(argv: list[str]) -> Parser:
    """The whole command line; `argv` decides which family's options `fit --help` lists."""
    common = Parser(add_help=False)
    group = common.add_argument_group("everywhere")
    group.add_argument("--json", action="store_true", help="one JSON object on standard output; logs go to standard error")
    group.add_argument("--debug", action="store_true", help="show where an error was raised")
    group.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="run this file: it may add families")
    top = Parser(
        prog="likeli",
        description="Deep generative models with one contract: fit, sample, and an honest log p(x).",
        epilog="Exit codes: 0 ok, 1 failed, 2 bad input, 3 done but for an output, 130 or 143 interrupted and saved.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"likeli {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        doc = str(module.__doc__)
        sub = commands.add_parser(
            name,
            help=doc.split("\n")[0],
            description=doc,
            parents=[common],
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        if hasattr(module, "epilog") and name in argv[:1] and HELP & set(argv):
            sub.epilog = module.epilog(argv)
        sub.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _tolerate_any_encoding()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _tell
            code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse after --help and --version
        return int(stop.code or 0)
    except BrokenPipeError:
        _drop_stdout()
        return OK
    except KeyboardInterrupt:
        return complain("interrupted", argv, INTERRUPTED, "Interrupted")
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        return complain(_message(error), argv, getattr(error, "exit_code", FAILED), type(error).__name__)


def _run(argv: list[str]) -> int:
    rest, dotted = split_dotted(argv)
    if rest and not rest[0].startswith("-") and rest[0] not in COMMANDS:
        raise InputError(f"command: expected one of {', '.join(COMMANDS)}, got {rest[0][:80]!r}{nearest(rest[0], COMMANDS)}")
    front = parser(rest)
    if not rest:
        front.print_help()
        return OK
    args, unknown = front.parse_known_args(rest)
    if unknown:
        raise _unknown(front, args, unknown[0])
    if args.command is None:
        raise InputError(f"command: expected one of {', '.join(COMMANDS)}")
    args.dotted = dotted
    return int(args.run(args) or OK)


def _unknown(front: Parser, args: argparse.Namespace, token: str) -> InputError:
    command = next((a for a in front._actions if isinstance(a, argparse._SubParsersAction)), None)
    known = command.choices[args.command]._option_string_actions if command and args.command else {}
    name = token.split("=")[0]
    return InputError(f"{args.command}: unknown option {name[:80]!r}{nearest(name, known)}; see likeli {args.command} --help")


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, LikeliError):
        return text
    if isinstance(error, OSError):
        return f"{error.strerror or text}: {error.filename}" if error.filename else text
    if isinstance(error, MemoryError) or ("alloc" in text and "memory" in text):
        return f"out of memory: {text[:200] or 'the request does not fit'}; ask for less, or make the model smaller"
    return f"unexpected {type(error).__name__}: {text[:300]} (please report it; --debug shows where)"


def _tell(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line, without the place in the code that raised it."""
    log(f"likeli: warning: {' '.join(str(message).split())}")


def _tolerate_any_encoding() -> None:
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _drop_stdout() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno != errno.EBADF:
            raise

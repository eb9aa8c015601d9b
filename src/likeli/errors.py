"""Every way likeli refuses, under one base class.

`LikeliError` is the root.  An `InputError` is also a `ValueError`: it names the argument, what was expected and what came.
The command line prints the message alone and exits with `exit_code`; `--debug` shows where it was raised.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

OK, FAILED, BAD_INPUT, OUTPUT_WARNING, INTERRUPTED = 0, 1, 2, 3, 130  # and 128 + its number for another signal


class LikeliError(Exception):
    """Base class of every error that likeli raises on purpose."""

    exit_code: int = FAILED


class InputError(LikeliError, ValueError):
    """An argument, a file or a data value is not what was asked for."""

    exit_code = BAD_INPUT


class CheckpointError(InputError):
    """A saved run is missing, damaged, tampered with, or not what the code expects."""


class Unsupported(LikeliError, NotImplementedError):
    """The mathematics says no: the message names the reason and an alternative."""

    exit_code = BAD_INPUT


class MissingExtra(LikeliError, ImportError):
    """An optional dependency is not installed."""

    exit_code = BAD_INPUT

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'likeli[{extra}]'")


class Diverged(LikeliError):
    """Training met a non-finite loss; the last good checkpoint is kept."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run after the state was saved; no mistake, so no `except Exception` catches it."""

    exit_code = INTERRUPTED


def require(condition: bool, argument: object, expected: str, got: object, error: type[InputError] = InputError) -> None:
    """Raise the one-line `error` unless `condition` holds.

    Arguments:
        condition: what must be true.
        argument: the name the user knows the value by, or the place in a file.
        expected: what was expected, in words.
        got: what came.
    """
    if not condition:
        what = got if isinstance(got, str) else repr(got)
        raise error(f"{one_line(brief(argument))}: expected {expected}, got {one_line(what, 120)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name nearest to `name`, or nothing."""
    near = get_close_matches(str(name), list(known), n=3)
    near.sort(key=lambda one: sorted(one) != sorted(str(name)))  # letters in another order are the likeliest slip
    return f"; did you mean {near[0]}?" if near else ""


def check_options(function: Callable[..., Any], options: Iterable[str], where: str) -> None:
    """Raise the `InputError` unless the function takes every one of the keywords; `where` is the name the user called.

    A function that takes any is asked nothing: it hands them on.
    """
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.name not in ("noise", "x", "y", "given")]
    free = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in () if free else options:
        have = f"it has {', '.join(known)}" if known else "it has none"
        if name not in known:
            raise InputError(f"{where}: no option {one_line(name, 80)!r}{nearest(name, known)}; {have}")


MOST_DRAWS = 10**6  # for one row's number, whose error falls with their root only


def require_draws(name: str, value: object, least: int = 1) -> None:
    """Raise the `InputError` unless `value`, the argument `name`, is a whole number of draws that a lifetime is enough for."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and value >= least, name, f"at least {least}", value)
    require(value <= MOST_DRAWS, name, f"at most {MOST_DRAWS}", value)


def one_line(text: object, limit: int = 400) -> str:
    """Text from a stranger's file, fit for a terminal: one printable line of bounded length."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text)[: 4 * limit].split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def brief(path: object) -> str:
    """A path for a message, its end if it is long."""
    return text if len(text := str(path)) <= 200 else "…" + text[-200:]

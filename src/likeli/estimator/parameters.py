"""The parameters of an estimator: those that its constructor names, and the options of the family that it is given."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any

from likeli.config import flat_defaults, lookup, parameters_of, registered
from likeli.contract import GenerativeModel
from likeli.errors import InputError, Unsupported, nearest, require
from likeli.training.settings import TrainSettings

MODEL, SCORE = "model__", "score__"  # prefixes: of the family's options alone, and of what its log p takes
VALIDATION = 0.1  # of the rows, which pick the best weights of a family that is trained in batches
OWN = {"space", "condition", "trees", "features"}  # what the data decide
SETTINGS = {f.name: f.default for f in fields(TrainSettings) if f.default is not MISSING}


@dataclass
class Chosen:
    """The options of an estimator, each at its place.

    Arguments:
        model: the family's own arguments.
        training: settings of `likeli.fit`.
        scoring: what the family's `log_likelihood` takes.
        validation: share of the rows that pick the best weights.
    """

    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    scoring: dict[str, Any] = field(default_factory=dict)
    validation: float = VALIDATION


def family_of(name: Any) -> type[GenerativeModel]:
    """The family called `name`.

    Raises:
        InputError: there is none; the nearest is suggested.
        Unsupported: it is made of another model, which no estimator has.
    """
    require(isinstance(name, str), "family", f"one of {', '.join(estimable())}", name)
    cls = lookup(name, GenerativeModel)  # type: ignore[type-abstract]
    if name not in estimable():
        raise Unsupported(f"{name} needs a {_needs(cls)[0]}, which an estimator does not have; use likeli.fit")
    return cls


def estimable() -> list[str]:
    """The names of the families that an estimator can be of: those that need nothing but a space."""
    known = registered(GenerativeModel)  # type: ignore[type-abstract]
    return [name for name, cls in known.items() if not _needs(cls)]


@cache  # reading the annotations of every family takes 15 ms, and a fit asks several times
def _needs(cls: type[GenerativeModel]) -> tuple[str, ...]:
    """Arguments without a default, or that are models themselves: a teacher."""
    parameters, hints = parameters_of(cls), typing.get_type_hints(cls.__init__)
    models = {k for k, hint in hints.items() for h in (hint, *typing.get_args(hint))
              if inspect.isclass(h) and issubclass(h, GenerativeModel)}  # fmt: skip
    empty = inspect.Parameter.empty
    return tuple(k for k, p in parameters.items() if k not in OWN and (p.default is empty or k in models))


def options_of(cls: type[GenerativeModel], taken: set[str]) -> dict[str, Any]:
    """Every option of a family's estimator with its default.

    Arguments:
        taken: names that the estimator's constructor has for itself; the family's own stand behind a prefix.
    """
    own = {k: v for k, v in flat_defaults(cls).items() if k not in OWN and v is not inspect.Parameter.empty}
    clear = {k: v for k, v in own.items() if k not in taken and k not in SETTINGS}
    hidden = {MODEL + k: v for k, v in own.items() if k not in clear}
    scoring = inspect.signature(cls.measure_likelihood).parameters
    asked = {SCORE + k: p.default for k, p in scoring.items() if p.default is not inspect.Parameter.empty and k not in ("y",)}
    settings = {k: v for k, v in (SETTINGS | cls.train_defaults).items() if k not in taken}
    return clear | hidden | asked | settings | {"validation": VALIDATION}


def check_names(family: Any, given: Mapping[str, Any], taken: set[str]) -> None:
    """Refuse an option that the family's estimator does not have; nothing where the family is none.

    Raises:
        InputError: the nearest known option is suggested.
    """
    if not isinstance(family, str) or family not in estimable():
        return
    cls = family_of(family)
    known = options_of(cls, taken)
    for name in given:
        plain = name.removeprefix(MODEL)
        if name not in known and not (plain != name and plain in known):
            raise InputError(f"{str(name)[:80]}: unknown option of an estimator of family {family}{nearest(name, known)}")


def sorted_options(family: str, given: Mapping[str, Any], taken: set[str]) -> Chosen:
    """The options of an estimator, each at its place.

    Raises:
        InputError: an unknown option.
    """
    check_names(family, given, taken)
    chosen = Chosen()
    for name, value in given.items():
        if name == "validation":
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            require(number and 0 <= value < 1, name, "a share of the rows from 0 to below 1", value)
            chosen.validation = value
        elif name.startswith(SCORE):
            chosen.scoring[name.removeprefix(SCORE)] = value
        elif name in SETTINGS:
            chosen.training[name] = value
        else:
            chosen.model[name.removeprefix(MODEL)] = value
    return chosen

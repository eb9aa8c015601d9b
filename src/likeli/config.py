"""Constructor = configuration.

An object is described by its class name and its constructor's arguments, each stored under its own name; `describe` writes
that as plain JSON values and `build` reads it back.  Only registered classes can be named, so no text from a file is ever
imported or evaluated.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from likeli.errors import InputError, LikeliError, nearest, require

_CLASSES: dict[str, type[Configurable]] = {}
MAX_DEPTH = 32
LARGEST = 2**31  # of a whole number: no size, level or step is larger
TOO_MUCH = ("memory", "storage size", "overflow")  # what torch says of a tensor that cannot be
C = TypeVar("C", bound="Configurable")


class Configurable:
    """A class whose constructor stores every argument under its own name.

    Subclasses are registered under their snake-case name (`ScoreSDE` is `score_sde`); two classes of one name are an error.
    Their constructors refuse in one line what does not fit the annotations, and take what is written like it: a number alone
    for a list of one, a numpy number for Python's, a name for an object with its defaults, and an argument of a nested object
    given flat, so that `VDM(space, hidden=64)` is `VDM(space, backbone=DenoiserBackbone(hidden=(64,)))`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = _CLASSES.get(cls.kind())
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{cls.kind()!r} is already registered by {known.__module__}.{known.__qualname__}")
        _CLASSES[cls.kind()] = cls
        if "__init__" in cls.__dict__:
            cls.__init__ = _checked(cls.__init__)  # type: ignore[method-assign]

    @classmethod
    def kind(cls) -> str:
        """The registered name, in snake case."""
        return snake_case(cls.__name__)

    @classmethod
    def _of_earlier(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments as an earlier version of the class described them, in today's names."""
        return arguments


def snake_case(name: str) -> str:
    """`ScoreSDE` → `score_sde`, `VDM` → `vdm`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def registered(base: type[C]) -> dict[str, type[C]]:
    """The concrete registered classes under `base`, by name."""
    return {k: c for k, c in sorted(_CLASSES.items()) if issubclass(c, base) and not inspect.isabstract(c)}


MANY = 25  # names, above which a message that knows the nearest lists none


def lookup(name: str, base: type[C]) -> type[C]:
    """The registered class called `name`.

    Raises:
        InputError: unknown name; the nearest known names are suggested.
    """
    known = registered(base)
    if name in known:
        return known[name]
    near = nearest(name, known)
    listed = f"one of {len(known)} names" if near and len(known) > MANY else f"one of {', '.join(known)}"
    raise InputError(f"{base.kind()}: expected {listed}, got {str(name)[:80]!r}{near}")


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's parameters, `self` left out; none where there is no constructor."""
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return {}
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])  # type: ignore[misc]


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls.__init__)  # type: ignore[misc]


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor with its arguments checked against its annotations, where it is not called by another constructor."""

    @wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is not checked:
            return init(self, *args, **kwargs)
        args, kwargs = _fitting(type(self), args, kwargs)
        try:
            init(self, *args, **kwargs)
        except (MemoryError, OverflowError, RuntimeError) as error:
            words = str(error).lower()
            if not isinstance(error, LikeliError) and any(w in words for w in TOO_MUCH):
                raise InputError(f"{type(self).kind()}: expected sizes that fit into memory, got {_listed(kwargs)}") from error
            raise

    return checked


def _fitting(cls: type[Configurable], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments as the annotations want them; as they are where Python itself will refuse them, or nothing is annotated."""
    known = parameters_of(cls)
    twice = not kwargs.keys().isdisjoint(list(known)[: len(args)])
    if twice or len(args) > len(known) or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in known.values()):
        return args, kwargs
    try:
        hints = _hints(cls)
    except NameError:  # names that are imported for type checkers alone
        return args, kwargs
    arguments = _grouped(dict(zip(known, args)) | kwargs, hints)
    for name in arguments:
        if name not in known:
            raise InputError(f"{name[:80]}: unknown argument of {cls.kind()}{nearest(name, known)}")
    fitting = {k: coerce(_plainer(v, hints.get(k)), hints.get(k, Any), k) for k, v in arguments.items()}
    for name, value in fitting.items():
        whole = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int)]
        require(all(abs(v) <= LARGEST for v in whole), name, "whole numbers of at most 2**31", value)
    return (), fitting


def _listed(arguments: Mapping[str, Any]) -> str:
    """The numbers among the arguments, as they were given."""
    numbers = [f"{k}={v}" for k, v in arguments.items() if isinstance(v, (int, tuple)) and not isinstance(v, bool)]
    return ", ".join(numbers)[:200] or "these"


def _plainer(value: Any, hint: Any) -> Any:
    """numpy's numbers as Python's, one value as a list of one, and the name of a class or a description as an object."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
        value = value.item()
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    lists = any(get_origin(h) is tuple and Ellipsis in get_args(h) for h in options)
    plain = any(h in (int, float, str, bool) for h in options) or any(value in get_args(h) for h in options if _is_literal(h))
    if isinstance(value, (int, float, str)) and not isinstance(value, bool) and lists and not plain:
        return (value,)
    objects = [h for h in options if inspect.isclass(h) and issubclass(h, Configurable)]
    if isinstance(value, str) and len(objects) == 1 and not plain:
        return lookup(value, objects[0])()
    if isinstance(value, Mapping) and isinstance(value.get("class"), str) and len(objects) == 1:
        return lookup(value["class"], objects[0])(**{k: v for k, v in value.items() if k != "class"})
    return value


def _is_literal(hint: Any) -> bool:
    return get_origin(hint) is Literal


def describe(obj: Configurable) -> dict[str, Any]:
    """`obj` as plain JSON values: `{"class": name, argument: value, ...}`, nested objects likewise."""
    return {"class": obj.kind()} | {k: _plain(getattr(obj, k), f"{obj.kind()}.{k}") for k in parameters_of(type(obj))}


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        require(math.isfinite(value), where, "a finite number", value)
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v, where) for k, v in value.items()}
    if isinstance(value, Configurable):
        return describe(value)
    raise TypeError(f"{where}: expected None, bool, int, float, str, list, dict or a registered object, got {value!r}")


def build(spec: Mapping[str, Any], base: type[C], *, where: str | None = None, depth: int = 0) -> C:
    """The inverse of `describe`.

    Arguments:
        spec: `{"class": name, argument: value, ...}`.
        base: the class the result must belong to.
        where: the path of `spec` in its file, for messages.

    Raises:
        InputError: unknown class or argument, missing argument, wrong type, too deep.
    """
    where = where or base.kind()
    require(depth <= MAX_DEPTH, where, f"at most {MAX_DEPTH} levels", "more")
    require(isinstance(spec, Mapping), where, "an object with a 'class'", spec)
    require(isinstance(spec.get("class"), str), f"{where}.class", "a registered name", spec.get("class"))
    cls = lookup(spec["class"], base)
    hints, known = _hints(cls), parameters_of(cls)
    arguments = _grouped(cls._of_earlier({k: v for k, v in spec.items() if k != "class"}), hints)
    for name in arguments:
        if name not in known:
            raise InputError(f"{where}.{str(name)[:80]}: unknown argument of {cls.kind()}{nearest(name, known)}")
    for name, parameter in known.items():
        missing = name not in arguments and parameter.default is inspect.Parameter.empty
        require(not missing, f"{where}.{name}", "a value", "nothing")
    return cls(**{k: coerce(v, hints.get(k, Any), f"{where}.{k}", depth + 1) for k, v in arguments.items()})


def _grouped(arguments: dict[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that only an object of one class among the constructor's own takes, put into that object."""
    for outer, hint in hints.items():
        inner = [o for o in (hint, *get_args(hint)) if inspect.isclass(o) and issubclass(o, Configurable)]
        if len(inner) != 1 or inspect.isabstract(inner[0]):
            continue
        loose = {k: v for k, v in arguments.items() if k not in hints and k in parameters_of(inner[0])}
        held = {} if arguments.get(outer) is None else arguments[outer]
        if loose and isinstance(held, Mapping) and not loose.keys() & held.keys():
            rest = {k: v for k, v in arguments.items() if k not in loose}
            arguments = rest | {outer: {"class": inner[0].kind()} | dict(held) | loose}
    return arguments


def flat_defaults(cls: type[Configurable]) -> dict[str, Any]:
    """Every argument that the constructor takes by name, with its default; `Parameter.empty` where there is none.

    Those of nested objects are among them, by the flat names under which `_grouped` finds their place.
    """
    known = {name: p.default for name, p in parameters_of(cls).items()}
    for hint in _hints(cls).values():
        inner = [o for o in (hint, *get_args(hint)) if inspect.isclass(o) and issubclass(o, Configurable)]
        if len(inner) == 1 and not inspect.isabstract(inner[0]):
            known = {name: p.default for name, p in parameters_of(inner[0]).items()} | known
    return known


def coerce(value: Any, hint: Any, where: str, depth: int = 0) -> Any:
    """`value` (plain JSON) as the annotated type `hint`; a bool is never a number, NaN never a float.

    Raises:
        InputError: the value does not fit the annotation.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(value, args, where, depth)
    if origin is Literal:
        require(value in args, where, f"one of {', '.join(map(str, args))}", value)
        return value
    if origin in (tuple, list) or hint in (tuple, list):
        require(isinstance(value, (list, tuple)), where, "a list", value)
        inner = [a for a in args if a is not Ellipsis] or [Any]
        fixed = origin is tuple and Ellipsis not in args and args
        require(not fixed or len(args) == len(value), where, f"{len(args)} values", value)
        items = [coerce(v, inner[i if fixed else 0], where, depth) for i, v in enumerate(value)]
        return tuple(items) if (origin or hint) is tuple else items
    if origin is dict or hint is dict:
        require(isinstance(value, Mapping), where, "an object", value)
        return {str(k): coerce(v, args[1] if args else Any, where, depth) for k, v in value.items()}
    return _coerce_leaf(value, hint, where, depth)


def _coerce_union(value: Any, options: tuple[Any, ...], where: str, depth: int) -> Any:
    errors = []
    for option in options:
        try:
            return coerce(value, option, where, depth)
        except InputError as error:
            errors.append(error)
    structured = isinstance(value, Mapping) and "class" in value
    if structured or sum(o is not type(None) for o in options) == 1:
        raise next(e for e, o in zip(errors, options) if o is not type(None))
    raise InputError(f"{where}: expected {' or '.join(_name(o) for o in options)}, got {str(value)[:80]!r}")


def _name(hint: Any) -> str:
    return "null" if hint is type(None) else str(getattr(hint, "__name__", hint))


def _coerce_leaf(value: Any, hint: Any, where: str, depth: int) -> Any:
    if hint is None or hint is type(None):
        require(value is None, where, "null", value)
    elif hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(number and abs(value) <= sys.float_info.max, where, "a finite number", value)
        return float(value)
    elif hint is int:
        require(isinstance(value, int) and not isinstance(value, bool), where, "an integer", value)
        require(abs(value) < 2**63, where, "an integer below 2**63", value)
    elif hint in (bool, str):
        require(isinstance(value, hint), where, {bool: "true or false", str: "text"}[hint], value)
    elif inspect.isclass(hint) and issubclass(hint, Configurable):
        return value if isinstance(value, hint) else build(value, hint, where=where, depth=depth)
    return value

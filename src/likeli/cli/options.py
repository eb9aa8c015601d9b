"""Options: how a word of the command line becomes a value, and what several verbs declare alike.

There is one type system.  A word is read as one strict YAML scalar (or, in brackets, a list) and `config.coerce` makes it what
the annotation says: a constructor's for `--model.NAME`, the settings' for `--train.NAME`, `type=` for a verb's own flags.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

import yaml

from likeli.cli.catalogue import Argument, Catalogue, training_options
from likeli.config import coerce
from likeli.errors import InputError, nearest, require

SECTIONS = ("model", "train", "likelihood", "sample")
MAX_BYTES, MAX_DEPTH = 1_000_000, 32
INTEGER = re.compile(r"[-+]?\d{1,99}(_\d{1,99})*", re.ASCII)
DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
PLAIN = "tag:likeli,plain"
Pairs = list[tuple[str, str]]

SHARED: dict[str, dict[str, Any]] = {
    "run_folder": {"metavar": "RUN", "help": "a run folder"},
    "--data": {"metavar": "DATA", "help": "other data than the run's own test split"},
    "--split": {"default": "test", "choices": ["train", "valid", "test"], "help": "part of the run's own data [test]"},
    "--types": {"metavar": "FILE", "help": "types of columns: a file as likeli load --columns --out writes, or name=type,…"},
    "--label": {"metavar": "Y", "help": "for a run with labels, the class of every row where DATA has none"},
    "--batch": {"type": int, "default": 256, "metavar": "N", "help": "rows at a time [256]"},
    "--seed": {"type": int, "default": 0, "metavar": "S", "help": "of all that is drawn [0]"},
    "--overwrite": {"action": "store_true", "help": "replace --out"},
    "--jobs": {"type": int, "metavar": "N", "help": "families fitted at the same time [%(default)s]"},
    "--processes": {"type": int, "metavar": "N", "help": "share the rows among N processes of this machine (docs/scale.md)"},
    "--quiet": {"action": "store_true", "help": "no bar on a terminal, no line every 30 s elsewhere"},
}


class Parser(argparse.ArgumentParser):
    """argparse that raises one line, takes `type=` for an annotation, and makes the long part of its help when asked for it.

    `words` are those of the command line; `more`, if set, makes of them what the help ends with.
    """

    words: Sequence[str] = ()
    more: Callable[[Sequence[str]], str] | None = None

    def error(self, message: str) -> NoReturn:
        """Raise in place of printing the usage and exiting."""
        raise InputError(f"{message}; see {self.prog} --help")

    def format_help(self) -> str:
        """The help."""
        if self.more is not None:
            self.epilog = self.more(self.words)
        return super().format_help()

    def share(self, *names: str, **changes: Any) -> None:
        """Declare options that other verbs have too, with `changes` to what is said of them."""
        for name in names:
            self.add_argument(name, **SHARED[name] | changes)

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        return text if action.type is None else read_value(text, action.type, action.dest)


def scalar(text: str) -> Any:
    """null, true, false, a decimal number, or else the text itself."""
    if text.lower() in ("", "~", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if DECIMAL.fullmatch(text) else text


def read_value(text: str, hint: Any, where: str) -> Any:
    """The text of one option as `hint` says; it stays text where nothing else fits.

    Raises:
        InputError: it does not fit, naming `where`.
    """
    kinds = {get_origin(h) or h for h in (hint, *get_args(hint))}
    readings = [None if text.lower() == "none" else _flow(text)]
    if kinds & {tuple, list}:  # brackets may be left out, and may be round
        bare = text[1:-1] if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")) else text
        readings.append(_flow(f"[{bare}]"))
    for value in (*readings, text):
        try:
            return coerce(value, hint, where)
        except InputError:
            continue
    return coerce(readings[-1], hint, where)


def _flow(text: str) -> Any:
    """`[1, 2]` and `{"a": 1}` are YAML's; anything else is a scalar."""
    try:
        return _Strict(text).get_single_data() if text[:1] in ("[", "{") else scalar(text)
    except (yaml.YAMLError, RecursionError):
        return text


def split_dotted(argv: list[str]) -> tuple[list[str], dict[str, Pairs]]:
    """`argv` without its dotted options, and those by section as (name, text).

    Raises:
        InputError: a dotted option without a value.
    """
    rest: list[str] = []
    found: dict[str, Pairs] = {s: [] for s in SECTIONS}
    tokens = iter(argv)
    for token in tokens:
        option = re.fullmatch(r"--(\w+)\.([^=]*)(?:=(.*))?", token, re.DOTALL)
        if option is None or option[1] not in SECTIONS:
            rest.append(token)
            continue
        value = option[3] if option[3] is not None else next(tokens, None)
        if value is None or (option[3] is None and value.startswith("--")):
            raise InputError(f"{token}: expected a value after it, got {value or 'nothing'}")
        found[option[1]].append((option[2], value))
    return rest, found


def model_spec(
    known: Catalogue,
    name: str,
    pairs: Pairs,
    config: Mapping[str, Any],
    *,
    among: Mapping[str, str] | None = None,
    where: str = "model",
) -> dict[str, Any]:
    """`{"class": name, argument: value}` from the file's values and, over them, the command line's.

    Arguments:
        known: the classes.
        name: of the family, or of one of `among`.
        pairs: options of the command line; `schedule.shift` is the option `shift` of what `schedule` names.
        config: the file's values.
        among: registered name → class name of what may be named; the families if None.
        where: the path of the object, for messages.

    Raises:
        InputError: unknown family or option; the nearest known name is suggested.
    """
    arguments = known.arguments(known.family(name) if among is None else among[name])
    single = {a: only for a in arguments if (only := known.single(arguments[a].annotation)) is not None}
    homes = {inside: a for a, (_, cls) in single.items() for inside in known.arguments(cls)}  # `hidden` is `backbone.hidden`
    given: dict[str, Any] = {}
    for key, value in config.items():
        if key not in arguments and key in homes:
            given[homes[key]] = (given.get(homes[key]) or {}) | {key: value}
        elif key != "class":
            given[key] = given[key] | dict(value) if isinstance(value, Mapping) and isinstance(given.get(key), dict) else value
    inner: dict[str, Pairs] = {}
    for key, text in pairs:
        head, dot, tail = key.partition(".")
        if not dot and head not in arguments and head in homes:
            head, dot, tail = homes[head], ".", head
        if dot:
            inner.setdefault(head, []).append((tail, text))
        else:
            given[head] = read_value(text, arguments[head].hint, f"{where}.{head}") if head in arguments else text
    spec: dict[str, Any] = {"class": name}
    for key in given | inner:
        if key not in arguments:
            hint = f"{nearest(key, arguments)}; see likeli list {name}"
            raise InputError(f"{where}.{str(key)[:80]}: {name} has no such option{hint}")
        value, own, path = given.get(key), inner.get(key, []), f"{where}.{key}"
        choices = known.nested(arguments[key].annotation)
        if choices and not own and isinstance(value, str) and f"'{value}'" in arguments[key].annotation:
            spec[key] = value  # a name of the constructor's own, such as noise=learned
            continue
        if choices and (own or isinstance(value, (str, Mapping))):
            value = {"class": value} if isinstance(value, str) else value or {}
            kind = value.get("class") or (single[key][0] if key in single else None)
            if key in single and kind not in choices:
                options = ", ".join(f"{path}.{k}" for k in known.arguments(single[key][1]))
                raise InputError(f"{path}: expected its options, {options}, got {str(kind)[:80]!r}")
            if not isinstance(kind, str) or kind not in choices:
                got = "nothing" if kind is None else f"{str(kind)[:80]!r}{nearest(kind, choices)}"
                raise InputError(f"{path}: expected one of {', '.join(choices)}, got {got}")
            value = model_spec(known, kind, own, value, among=choices, where=path)
        elif own:
            raise InputError(f"{path}: expected one value, got the options {', '.join(k for k, _ in own)}")
        spec[key] = value
    return spec


def train_settings(pairs: Pairs, config: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings: the file's values and, over them, the command line's.

    Raises:
        InputError: an unknown name, or a value that does not fit.
    """
    known = training_options()
    for key in (*config, *(k for k, _ in pairs)):
        if key not in known:
            raise InputError(f"train.{str(key)[:80]}: no such training option{nearest(key, known)}; see likeli fit --help")
    return {**config, **{k: read_value(text, known[k].hint, f"train.{k}") for k, text in pairs}}


def with_defaults(catalogue: Catalogue, spec: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with the defaults of everything that it leaves out and whose default is a plain value."""
    return {"class": spec["class"], **_literals(catalogue.arguments(catalogue.family(spec["class"]))), **spec}


def train_defaults(catalogue: Catalogue, family: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the defaults of the trainer and, over them, of the family."""
    return _literals(training_options()) | _own(catalogue, family, "train_defaults") | dict(settings)


def text_defaults(catalogue: Catalogue, family: str) -> dict[str, Any]:
    """What takes the place of the family's defaults where rows are text."""
    return _own(catalogue, family, "text_defaults")


def _own(catalogue: Catalogue, family: str, name: str) -> dict[str, Any]:
    found = catalogue.attribute(catalogue.family(family), name)
    return found if isinstance(found, dict) else {}


def _literals(arguments: Mapping[str, Argument]) -> dict[str, Any]:
    return {n: a.default for n, a in arguments.items() if a.literal}


class _Strict(yaml.SafeLoader):
    """YAML without duplicate keys, anchors and tags, of limited depth, its plain scalars read by `scalar`."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=self.peek_event().start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key.value, str) else True:
                raise yaml.MarkedYAMLError(problem=f"key {str(key.value)[:80]!r} twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return PLAIN if kind is yaml.ScalarNode and implicit[0] else super().resolve(kind, value, (False, True))


_Strict.add_constructor(PLAIN, lambda loader, node: scalar(node.value))


def read_config(path: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a YAML (or JSON) file.

    Arguments:
        path: the file.
        known: what may stand at the top level, each with its type.

    Raises:
        InputError: not readable, not an object, unknown or repeated key, a value of another type.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"config: cannot read {path}: {reason}") from None
    require(len(raw) <= MAX_BYTES, f"config {path}", f"at most {MAX_BYTES} bytes", "more")
    try:
        values = _Strict(text).get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deep or not YAML"
        raise InputError(f"config {path}: {where}{reason}") from None
    require(isinstance(values, dict), f"config {path}", "options by name", "nothing" if values is None else values)
    for key in values:
        if key not in known:
            raise InputError(f"config {path}: unknown option {str(key)[:80]!r}{nearest(key, known)}")
    return {key: coerce(value, known[key], f"config {path}: {key}") for key, value in values.items()}

"""Options with a dot: `--model.NAME value`, `--train.NAME value`, and the YAML file that says the same.

Values stay plain (JSON) here; the constructors' own annotations and checks judge them when the model is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from likeli.cli.catalogue import Argument, Catalogue, training_options
from likeli.errors import InputError, nearest, require

SECTIONS = ("model", "train", "likelihood", "sample")
MAX_BYTES, MAX_DEPTH = 1_000_000, 32
Pairs = list[tuple[str, str]]


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


def model_spec(catalogue: Catalogue, name: str, pairs: Pairs, config: Mapping[str, Any]) -> dict[str, Any]:
    """`{"class": name, argument: value}` from the file's values and, over them, the command line's.

    Raises:
        InputError: unknown family or option; the nearest known name is suggested.
    """
    return _spec(catalogue, catalogue.family(name), name, pairs, config, "model")


def _spec(
    catalogue: Catalogue, cls: str, name: str, pairs: Pairs, config: Mapping[str, Any], where: str
) -> dict[str, Any]:
    known = catalogue.arguments(cls)
    spec: dict[str, Any] = {"class": name}
    inner: dict[str, Pairs] = {}
    given: dict[str, Any] = {k: v for k, v in config.items() if k != "class"}
    for key, text in pairs:
        head, dot, tail = key.partition(".")
        if dot:
            inner.setdefault(head, []).append((tail, text))
            given.setdefault(head, None)
        elif head in known:
            given[head] = parse(text, known[head].annotation)
        else:
            given[head] = text
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{where}.{str(key)[:80]}: {name} has no such option{nearest(key, known)}; see likeli list {name}")
        nested = catalogue.nested(known[key].annotation)
        if nested and (isinstance(value, (str, Mapping)) or key in inner):
            value = _nested(catalogue, nested, value, inner.get(key, []), f"{where}.{key}")
        elif key in inner:
            raise InputError(f"{where}.{key}: expected one value, got the options {', '.join(k for k, _ in inner[key])}")
        spec[key] = value
    return spec


def _nested(catalogue: Catalogue, options: dict[str, str], value: Any, pairs: Pairs, where: str) -> dict[str, Any]:
    value = {"class": value} if isinstance(value, str) else value or {}
    name = value.get("class")
    if not isinstance(name, str) or name not in options:
        got = "nothing" if name is None else f"{str(name)[:80]!r}{nearest(name, options)}"
        raise InputError(f"{where}: expected one of {', '.join(options)}, got {got}")
    return _spec(catalogue, options[name], name, pairs, value, where)


def train_settings(pairs: Pairs, config: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings, checked for unknown names."""
    known = training_options()
    settings = dict(config) | {k: parse(t, known[k].annotation) if k in known else t for k, t in pairs}
    for key in settings:
        if key not in known:
            raise InputError(f"train.{str(key)[:80]}: no such training option{nearest(key, known)}; see likeli fit --help")
    return settings


def with_defaults(catalogue: Catalogue, spec: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with the defaults of everything that it leaves out and whose default is a plain value."""
    known = catalogue.arguments(catalogue.family(spec["class"]))
    return {"class": spec["class"]} | _literals(known) | {k: v for k, v in spec.items() if k != "class"}


def train_defaults(catalogue: Catalogue, family: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the defaults of the trainer and, over them, of the family."""
    own = catalogue.attribute(catalogue.family(family), "train_defaults")
    return _literals(training_options()) | (own if isinstance(own, dict) else {}) | dict(settings)


def _literals(arguments: Mapping[str, Argument]) -> dict[str, Any]:
    plain = {n: a.default for n, a in arguments.items() if a.literal}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in plain.items()}


def parse(text: str, annotation: str = "") -> Any:
    """The text of one option as a plain value, in the light of its annotation; what does not fit is left as text."""
    if text.lower() in ("null", "none") and "None" in annotation:
        return None
    if annotation.startswith("str") or re.match(r"Literal\[['\"]", annotation):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "Literal" in annotation and text.isidentifier():
        return text
    if "tuple" in annotation or "list" in annotation:
        inside = text.strip("[]() ")
        return [parse(part.strip()) for part in inside.split(",") if part.strip()]
    for read in (int, float, json.loads):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return text


class _Strict(yaml.SafeLoader):
    """YAML without duplicate keys, anchors and tags, of limited depth; 1e-3 is a number."""

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


_Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"),
    list("-+0123456789."),
)


def read_config(path: str, known: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The options of a YAML (or JSON) file.

    Arguments:
        path: the file.
        known: what may stand at the top level, each with a test of its value.

    Raises:
        InputError: not readable, not an object, unknown or repeated key.
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
        loader = _Strict(text)
        values = loader.get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"config {path}: {_place(error)}") from None
    require(isinstance(values, dict), f"config {path}", "options by name", "nothing" if values is None else values)
    for key, value in values.items():
        if key not in known:
            raise InputError(f"config {path}: unknown option {str(key)[:80]!r}{nearest(key, known)}")
        require(known[key](value), f"config {path}: {key}", "another type of value", value)
    return values


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deep or not YAML"
    return where + str(reason)

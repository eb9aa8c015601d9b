"""What type the columns of a table are, as the user says it: in words, in a mapping, or in a YAML or JSON file to be edited.

    age: integer
    education: {type: ordinal, categories: [Preschool, HS-grad, Bachelors, Masters, Doctorate]}
    hours: {type: integer, low: 0, high: 168}
    id: drop

A scalar of the file is a text, so that `no`, `007` and `2020-12-31` are what they look like.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from likeli.errors import InputError, nearest, one_line, require
from likeli.spaces.table import NAMED

TYPES = ("real", "integer", "ordinal", "categorical", "boolean", "date", "text", "drop")
KEYS = ("type", "categories", "low", "high")
MAX_BYTES = 4_000_000


@dataclass(frozen=True)
class ColumnType:
    """What was said of one column; None where nothing was.

    Arguments:
        type: one of `TYPES`; a `text` identifies its row and has no distribution, `drop` leaves the column out.
        categories: all that there are; in their order if the type is ordinal, False before True if it is boolean.
        low, high: bounds that p and samples keep to, as numbers or the text of a date; `open` lets samples go beyond the rows.
    """

    type: str | None = None
    categories: tuple[str, ...] | None = None
    low: float | str | None = None
    high: float | str | None = None

    @property
    def limits(self) -> tuple[float | str | None, float | str | None]:
        """Both ends."""
        return self.low, self.high

    def plain(self) -> str | dict[str, Any]:
        """As JSON has it: the type alone where there is no more."""
        said: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k in KEYS if (v := getattr(self, k)) is not None}
        return str(self.type) if list(said) == ["type"] else said


def read_types(types: Any) -> dict[str, ColumnType]:
    """The types of columns by name.

    Arguments:
        types: a mapping of column name to type or to `{type, categories, low, high}`, the path of a YAML or JSON file that
            holds one, or `name=type,name=type`.

    Raises:
        InputError: no such type, key or file, a name twice, bounds that leave nothing.
    """
    if types is None:
        return {}
    where = "types"
    if isinstance(types, (str, os.PathLike)):
        text = os.fspath(types)
        listed = isinstance(text, str) and "=" in text and not os.path.lexists(text)
        types = _listed(text) if listed else _from_file(Path(text))
        where = "types" if listed else f"types {text}"
    require(isinstance(types, Mapping), where, f"types by column name, each one of {', '.join(TYPES)}", types)
    return {str(name): _one(said, f"{where}: column {one_line(name, 80)}") for name, said in types.items()}


def _listed(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, kind = part.rpartition("=")
        require(bool(equals and name.strip()), "types", "a file, or name=type,name=type", part)
        require(name.strip() not in found, "types", "every column once", name.strip())
        found[name.strip()] = kind.strip()
    return found


def _from_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"types: cannot read {path}: {reason}") from None
    require(len(raw) <= MAX_BYTES, f"types {path}", f"at most {MAX_BYTES} bytes", "more")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.BaseLoader)):
            raise InputError(f"types {path}: expected a file without aliases (*name), got one; quote a text that begins with *")
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return {} if node is None else _value(node, f"types {path}")
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
        raise InputError(f"types {path}: {where}{getattr(error, 'problem', None) or 'nested too deep or not YAML'}") from None


def _value(node: yaml.Node, where: str) -> Any:
    """A node as texts, lists and dicts; nothing is None."""
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = f"{where}: line {key.start_mark.line + 1}"
            require(isinstance(key, yaml.ScalarNode), line, "a name", "a list or a mapping")
            require(key.value not in found, line, "every name once", key.value)
            found[key.value] = _value(value, where)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, where) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return None if node.style is None and node.value in ("", "~", "null") else node.value


def _one(said: Any, where: str) -> ColumnType:
    if isinstance(said, ColumnType):
        return said
    said = {"type": said} if isinstance(said, str) else said
    require(isinstance(said, Mapping), where, f"one of {', '.join(TYPES)}, or {{type, categories, low, high}}", said)
    for key in said:
        if key not in KEYS:
            raise InputError(f"{where}: unknown key {one_line(key, 80)!r}{nearest(key, KEYS)}; it has {', '.join(KEYS)}")
    kind, known = said.get("type"), said.get("categories")
    if kind is not None and kind not in TYPES:
        raise InputError(f"{where}: expected one of {', '.join(TYPES)}, got {one_line(kind, 80)}{nearest(kind, TYPES)}")
    if known is not None:
        listed = isinstance(known, Sequence) and not isinstance(known, str) and len(known) > 0
        require(listed, f"{where}, categories", "a list of texts", known)
        known = tuple(str(v).strip() for v in known)
        require(len(set(known)) == len(known), f"{where}, categories", "every category once", ", ".join(known))
        kind = kind or "categorical"
        require(kind in NAMED, where, f"no categories, as its type is {kind}", ", ".join(known))
        require(kind != "boolean" or len(known) == 2, f"{where}, categories", "the word for False, then that for True", known)
    low, high = (_limit(said.get(end), f"{where}, {end}") for end in ("low", "high"))
    numbers = kind in (None, "real", "integer", "date")
    require(numbers or low is high is None, where, f"no bounds, as its type is {kind}", f"low {low}, high {high}")
    apart = not (isinstance(low, float) and isinstance(high, float)) or low < high
    require(apart, where, "low below high", f"low {low}, high {high}")
    return ColumnType(kind, known, low, high)


def _limit(value: Any, where: str) -> float | str | None:
    """A bound: a finite number, a date's text or `open`; None for the range of the rows."""
    if value is None or value == "observed":
        return None
    require(isinstance(value, (str, int, float)) and not isinstance(value, bool), where, "a number, a date, or open", value)
    try:
        number = float(value)
    except ValueError:
        return str(value)
    require(math.isfinite(number), where, "a finite number", value)
    return number


def written(types: Mapping[str, ColumnType], remarks: Mapping[str, str]) -> str:
    """A YAML file of types that `read_types` reads back, with a remark behind each."""
    lines = [
        "# type: real, integer, ordinal, categorical, boolean, date; text identifies a row, drop leaves a column out",
        "# ordinal: categories from the least to the most; numbers may have low: and high:, bounds that p and samples keep to,",
        "# or open, for samples beyond the rows that were seen",
    ]
    for name, said in types.items():
        value = said.plain()
        inner = value if isinstance(value, str) else yaml.safe_dump(_texts(value), default_flow_style=True, width=1e9,
                                                                    allow_unicode=True, sort_keys=False).strip()  # fmt: skip
        key = yaml.safe_dump(name, default_flow_style=True, width=1e9, allow_unicode=True).split("\n")[0]
        remark = one_line(remarks.get(name, ""), 160)
        lines.append(f"{key}: {inner}" + f"  # {remark}" * bool(remark))
    return "\n".join(lines) + "\n"


def _texts(value: dict[str, Any]) -> dict[str, Any]:
    return {k: f"{v:.17g}" if isinstance(v, float) else v for k, v in value.items()}

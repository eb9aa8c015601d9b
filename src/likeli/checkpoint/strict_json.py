"""JSON without its traps: no duplicate keys, no NaN tokens, no number that overflows, no depth that overflows a stack.

Floats keep every bit (the shortest decimal that reads back the same).  A float that is not finite is written as the text "NaN",
"Infinity" or "-Infinity" and read back as that float; a text that could be mistaken for one gets a backslash in front, which
reading takes off again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch

from likeli.errors import CheckpointError, InputError, one_line, require

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
DEPTH, PARTS = 32, 1 << 20  # levels, and lists and objects in all: an empty one takes three bytes of text and sixty of memory
# a whole string (closed or not, never backtracking), or one bracket
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def dumps(value: Any, where: str, limit: int) -> bytes:
    """`value` as UTF-8 JSON of one line.

    Arguments:
        value: None, bool, int, float, str, lists and string-keyed mappings of these; NumPy and torch scalars count as numbers.
        where: what it is, for messages.
        limit: bytes.

    Raises:
        InputError: anything else, too deep, or too big.
    """
    data = json.dumps(_encode(value, where, 0), ensure_ascii=False, allow_nan=False).encode()
    require(len(data) <= limit, where, f"at most {limit} bytes", f"{len(data)} bytes")
    return data


def loads(data: bytes, where: object) -> Any:
    """The value that `dumps` wrote.

    Raises:
        CheckpointError: not strict JSON; where in the text, if the parser knows.
    """
    _check_depth(data, where)
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
        )
        return _decode(value)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(one_line(f"{where}: expected strict JSON, got a fault: {error}")) from error


def _encode(value: Any, where: str, depth: int) -> Any:
    require(depth <= DEPTH, where, f"at most {DEPTH} levels", "more")
    if isinstance(value, (np.generic, torch.Tensor)) and math.prod(value.shape) == 1:
        value = value.item()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else next(w for w, v in WORDS.items() if repr(v) == repr(float(value)))
    if isinstance(value, (str, PathLike)):
        text = _printable(str(fspath(value)))
        return "\\" + text if text in WORDS or text.startswith("\\") else text
    if isinstance(value, (list, tuple)):
        return [_encode(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            require(isinstance(key, str), where, "text as keys", key)
        return {_printable(k): _encode(v, f"{where}.{k}", depth + 1) for k, v in value.items()}
    raise InputError(one_line(f"{where}: expected plain JSON values, got {value!r}"))


def _printable(text: str) -> str:
    """The text itself; the bytes of a file name that are no UTF-8, which Python holds as lone surrogates, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        value.encode()  # a lone surrogate could not be printed
        return WORDS.get(value, value[1:] if value.startswith("\\") else value)
    if isinstance(value, list):
        return [_decode(v) for v in value]
    return {k: _decode(v) for k, v in value.items()} if isinstance(value, dict) else value


def _check_depth(data: bytes, where: object) -> None:
    depth = parts = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        change = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(match[0], 0)
        depth, parts = depth + change, parts + (change > 0)
        require(depth <= DEPTH, where, f"at most {DEPTH} levels", "more", CheckpointError)
        require(parts <= PARTS, where, f"at most {PARTS} lists and objects", "more", CheckpointError)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        key.encode()
        if key in out:
            raise ValueError(f"duplicate key {key[:80]!r}")
        out[key] = value
    return out


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} overflows")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")

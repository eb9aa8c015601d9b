"""What the commands print: one JSON object or plain text on standard output, everything else on standard error."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from likeli.errors import FAILED, LikeliError, require


def emit(args: argparse.Namespace, payload: Mapping[str, Any], text: str) -> None:
    """The result: `payload` as one line of JSON with `--json`, else `text`."""
    print(to_json(payload) if args.json else text)


def to_json(value: Any) -> str:
    """Strict JSON; what is not a finite number becomes null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def log(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr)


def complain(message: str, argv: Sequence[str], code: int = FAILED, type_: str = "") -> int:
    """Say why a command failed, on standard error and, with `--json`, as the one object; gives `code` back."""
    log(f"likeli: {message}")
    if "--json" in argv:
        with contextlib.suppress(OSError):
            print(to_json({"error": message, "exit_code": code, "type": type_}))
    return code


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned by spaces: text to the left, numbers to the right."""
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(header), *cells]) for i in range(len(header))]
    right = [all(_numeric(r[i]) for r in cells) for i in range(len(header))]
    lines = [list(header), ["-" * w for w in widths], *cells]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)).rstrip() for line in lines
    )


def _numeric(text: str) -> bool:
    return text == "-" or text.lstrip("+-")[:1].isdigit()


@contextlib.contextmanager
def new_file(path: str, *, overwrite: bool) -> Iterator[Path]:
    """A path to write to; the file appears under its own name only when the block has written all of it.

    Raises:
        InputError: it exists and `overwrite` is off, or its folder does not.
        LikeliError: it cannot be written.
    """
    target = Path(path)
    check_new(path, overwrite=overwrite)
    partial = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        raise LikeliError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def check_new(path: str, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        InputError: it exists and `overwrite` is off, or its folder is missing or not writable.
    """
    target = Path(path)
    folder = target.parent
    require(folder.is_dir(), "out", "a file in an existing folder", str(path))
    require(os.access(folder, os.W_OK), "out", f"a folder that can be written, {folder} cannot", str(path))
    require(not target.is_dir(), "out", "a file", f"the folder {path}")
    require(overwrite or not target.exists(), "out", "a new file, or --overwrite", f"{path}, which exists")

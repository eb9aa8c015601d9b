"""Tables written part by part: a command that was ended goes on after its last whole part when it is given again."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from likeli import __version__
from likeli.cli.objects import PART
from likeli.cli.output import log, new_file, to_json
from likeli.errors import one_line, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.checkpoint import Checkpoint

TABLES = (".csv", ".parquet")
Rows: TypeAlias = "tuple[Any, Tensor, Tensor | None]"  # all columns as a pandas DataFrame, or None; x; y
Part = TypeVar("Part")
ROWS_OF_A_PART, CELLS_OF_A_PART = 1 << 14, 1 << 22
UNTOLD = {"out", "overwrite", "json", "debug", "processes", "run", "parser", "run_folder"}  # options that decide of no cell
KEPT = re.compile(r"\.lock|(command|[0-9]{8})\.json(\.new)?|[0-9]{8}\.[0-9]\.(csv|parquet)")


def in_small_parts(parts: Iterable[Rows]) -> Iterator[Rows]:
    """Rows, few enough of them at a time that little is lost with a part that is not finished."""
    for table, x, y in parts:
        for first in range(0, len(x), ROWS_OF_A_PART):
            rows = slice(first, first + ROWS_OF_A_PART)
            yield None if table is None else table.iloc[rows], x[rows], None if y is None else y[rows]


def command_of(args: argparse.Namespace, saved: Checkpoint, *rows: Tensor | None) -> dict[str, Any]:
    """What decides of every cell of an output, in plain values: versions, weights, options, files and `rows` in memory."""
    import torch

    from likeli.data.in_files import marks_of

    named = [value for name in ("data", "against", "classifier") if (value := getattr(args, name, None))]
    files = [*args.plugin, *named, *(part["base"] for name in named if (part := PART.fullmatch(name)))]
    options = {name: value for name, value in vars(args).items() if name not in UNTOLD}
    told: dict[str, Any] = {"versions": [__version__, torch.__version__], "options": options}
    told |= {"run": {name: saved.files[name]["sha256"] for name in ("config.json", "model.safetensors")}}
    told |= {"files": {path: mark for file in files for path, mark in marks_of(file).items()}}
    told |= {"rows": [hashlib.sha256(x.cpu().contiguous().numpy()).hexdigest() for x in rows if x is not None]}
    return dict(json.loads(to_json(told)))


def write_by_parts(
    args: argparse.Namespace,
    outs: Sequence[str | None],
    command: Mapping[str, Any],
    parts: Iterable[Part],
    work: Callable[[Part, int], tuple[dict[str, Any], Sequence[Any]]],
) -> list[dict[str, Any]]:
    """Write tables part by part; they appear under their names when all is there, and a command that was ended goes on.

    Arguments:
        outs: .csv or .parquet files; None is not asked for.
        command: whatever decides of a cell of them: parts of another one are not gone on from.
        parts: what there is to do, the same in every process.
        work: of a part and the rows before it, makes what is said of it, with its `rows`, and a data frame for each file.

    Returns:
        What is said of each part.

    Raises:
        InputError: as for `new_file`; another process is writing them.
        LikeliError: they cannot be written.
    """
    from likeli import processes

    with kept_parts([out for out in outs if out], command) if processes.is_first() else contextlib.nullcontext() as kept:
        said: list[dict[str, Any]] = list(processes.exchanged(kept.said if kept else None, {})[0][0])
        for part in itertools.islice(parts, len(said), None):
            told, frames = work(part, sum(one["rows"] for one in said))
            said.append(told)
            if kept is not None:
                kept.add(told, frames)
        if kept is not None:
            kept.finish(overwrite=args.overwrite)
    return said


@dataclass
class KeptParts:
    """What is there of tables that are being written: number and table name the file of a part, which is whole once a
    file of its number says what is said of it.

    Arguments:
        folder: where they are.
        outs: the tables.
        said: of each whole part.
    """

    folder: Path
    outs: Sequence[str]
    said: list[dict[str, Any]] = field(default_factory=list)

    def files(self, number: int) -> list[Path]:
        """Those of a part, one for each table."""
        suffixes = (".parquet" if Path(out).suffix.lower() == ".parquet" else ".csv" for out in self.outs)
        return [self.folder / f"{number:08}.{table}{suffix}" for table, suffix in enumerate(suffixes)]

    def begin(self, command: Mapping[str, Any]) -> None:
        """Go on from whole parts that this command has left; parts of another are removed."""
        from likeli.processes import differing

        left = self._read("command")
        while left == command and (one := self._read(f"{len(self.said):08}")) is not None:
            self.said.append(one)
        if self.said:
            log(f"likeli: going on after {self.rows:,} rows in {self.folder}")
            return
        if left is not None and left != command:
            name, ours, theirs = differing("command", command, left)
            told = f"{name.removeprefix('command.')}: {one_line(theirs, 60)}, not {one_line(ours, 60)}"
            log(f"likeli: {self.folder} is of another command ({told}) and begins anew")
        for path in self.folder.iterdir():
            if path.name != ".lock":
                path.unlink()
        self._write("command", command)

    @property
    def rows(self) -> int:
        """How many there are in whole parts."""
        return sum(one["rows"] for one in self.said)

    def add(self, told: dict[str, Any], frames: Sequence[Any]) -> None:
        """Write the next part of each table."""
        from likeli.checkpoint import disk
        from likeli.data import write_part

        number = len(self.said)
        for path, frame in zip(self.files(number), frames, strict=True):
            with disk.writing(path):
                write_part(path, frame, number)
        self._write(f"{number:08}", told)
        self.said.append(told)

    def finish(self, *, overwrite: bool) -> None:
        """Join the parts, give the tables their names, and remove the parts."""
        from likeli.checkpoint import disk
        from likeli.data import join_parts

        parts = [self.files(number) for number in range(len(self.said))]
        with contextlib.ExitStack() as stack:
            for out, files in zip(self.outs, zip(*parts)):
                join_parts(files, stack.enter_context(new_file(out, overwrite=overwrite)))
        disk.remove_folder(self.folder)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        from likeli.checkpoint import disk

        new = self.folder / f"{name}.json.new"
        with disk.writing(new):
            new.unlink(missing_ok=True)
        disk.write_new(new, [json.dumps(value).encode()])  # ASCII, whatever bytes a path has
        disk.rename(new, new.with_suffix(""))


@contextlib.contextmanager
def kept_parts(outs: Sequence[str], command: Mapping[str, Any]) -> Iterator[KeptParts]:
    """The parts of tables that are being written, beside the first of these; they stay if the block is left by an error.

    Raises:
        InputError: a folder with other things in it has their name; another process is writing them.
        LikeliError: the folder cannot be written.
    """
    from likeli.checkpoint import lock

    kept = KeptParts(Path(f"{outs[0]}.parts"), outs)
    foreign = sorted(name for name in os.listdir(kept.folder) if not KEPT.fullmatch(name)) if kept.folder.is_dir() else []
    require(not foreign, "out", f"a name whose {kept.folder} is not there, or holds parts only", ", ".join(foreign[:3]))
    with lock(kept.folder):
        try:
            kept.begin(command)
            yield kept
        except BaseException:
            if kept.said and kept.folder.is_dir():
                log(f"likeli: {kept.rows:,} rows are kept in {kept.folder}; the same command goes on after them")
            else:
                shutil.rmtree(kept.folder, ignore_errors=True)
            raise

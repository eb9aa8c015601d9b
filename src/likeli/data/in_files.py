"""Which sources stay in files: Parquet always, folders of pictures and data sets of the hub if they are large."""

from __future__ import annotations

import glob
import math
import os
import re
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from likeli.data.builtin.sources import SOURCES, Raw
from likeli.data.column_types import ColumnType
from likeli.data.picture_stream import condition_of, survey_pictures
from likeli.data.readers.folders import find_pictures
from likeli.data.readers.hub import HubPictures, HubTable, hub_files, open_hub
from likeli.data.readers.idx import is_idx, training_images
from likeli.data.readers.images import MOST_PIXELS, Album, captioned, captions_of
from likeli.data.readers.shards import Shards, find_shards, mark
from likeli.data.stream import Split
from likeli.data.table_stream import survey
from likeli.errors import InputError, require
from likeli.spaces import Alphabet

LARGEST_IN_MEMORY = 1 << 28  # bytes of pictures, or of a hub's table: reading them takes up to four times as much
OPTIONS = re.compile(r"(?P<base>.+):(?P<options>\w+=[^:=,]+(?:,\w+=[^:=,]+)*)")
FiledTable: TypeAlias = Shards | HubTable
FiledPictures: TypeAlias = Album | HubPictures


def is_table(files: FiledTable | FiledPictures) -> TypeGuard[FiledTable]:
    """Whether files hold a table, not pictures."""
    return isinstance(files, FiledTable)


def named_options(source: str | os.PathLike[str], options: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    """(the source, its options, the text that says both) of `NAME:option=value,…` and options that are given apart."""
    base = os.fspath(source)
    require(0 < len(base) <= 4096 and "\0" not in base, "data", "a name or a path", repr(base[:80]))
    match, given = OPTIONS.fullmatch(base), dict[str, Any]()
    if match and not os.path.exists(base):
        base, given = match["base"], dict[str, Any](pair.split("=", 1) for pair in match["options"].split(","))
    written = given | {k: v for k, v in options.items() if not isinstance(v, Alphabet)}
    given |= {k.lower() if k == "N" else k: v for k, v in options.items()}
    listed = ",".join(f"{'n' if k == 'N' else k}={v}" for k, v in written.items())
    return base, given, f"{base}:{listed}" if listed else base


def find_files(source: Any, labels: Any = None, options: dict[str, Any] | None = None) -> FiledTable | FiledPictures | None:
    """The files that a source stays in while it is read; None for one that is read into memory.

    A folder of pictures or a data set of the hub stays in files if it would take more than `LARGEST_IN_MEMORY`, or if its
    option `stream` says so; not with labels from elsewhere than its folders, but for captions.

    Raises:
        InputError: damaged files; an option that there is not.
    """
    shards = find_shards(source)
    if shards is not None:
        require(not options, shards.name, "no such option", ", ".join(options or {}))
        return shards
    if not isinstance(source, (str, os.PathLike)):
        return None
    base, given, _ = named_options(source, options or {})
    asked = str(given.pop("stream", "")) or None
    require(asked in (None, "0", "1"), f"{base}: stream", "0 or 1", asked)
    found: FiledTable | FiledPictures | None = None
    if asked == "0" or base in SOURCES:
        return None
    if base.startswith("hf:"):
        found = hub_files(open_hub(base[3:], given), base)
    elif os.path.isdir(base) and not is_idx(base) and not training_images(Path(base)) and given.keys() <= {"size"}:
        found = Album(find_pictures(base), size_option(given))
    if found is None or (asked is None and bytes_of(found) <= LARGEST_IN_MEMORY):
        return None
    captions = captions_of(base, labels) if isinstance(found, Album) else None
    if isinstance(found, Album) and captions is not None:
        return captioned(found, captions)
    apart = labels is not None and not is_table(found)
    told = f"{base}: labels beside option stream=1"
    require(not (apart and asked == "1"), told, "captions, or none: the classes are its folders, or its column of them", labels)
    return None if apart else found


def size_option(given: dict[str, Any]) -> int | None:
    """The option `size` of a folder of pictures."""
    size = str(given.get("size", "1"))
    possible = size.isdecimal() and 1 <= int(size) <= MOST_PIXELS
    require(possible, "size", f"a whole number of pixels from 1 to {MOST_PIXELS}", size)
    return int(size) if "size" in given else None


def bytes_of(files: FiledTable | FiledPictures) -> int:
    """What all rows take in memory; nothing of pictures whose first cannot be read, so that reading tells what is wrong."""
    if isinstance(files, FiledTable):
        return 8 * len(files.names) * len(files)
    try:
        return len(files) * math.prod(files.look(0)[0])
    except InputError:
        return 0


def sample_of_files(files: FiledTable | FiledPictures, labels: Any, said: dict[str, ColumnType], split: Split) -> Raw:
    """What `load_data` needs of rows that stay in files; labels of a table are still one of its columns."""
    if isinstance(files, FiledTable):
        frame, parts, stream, note = survey(files, labels, said, split)
        return Raw(files.name, frame, split=parts, warnings=[note], stream=stream)
    x, rows, parts, stream, notes = survey_pictures(files, Split(split.seed, split.fractions, files.sizes))
    condition, labels = condition_of(files), files.labels(rows)
    if files.captions is not None:
        return Raw(files.name, x, labels, condition=condition, split=parts, warnings=notes, stream=stream, labelled=True,
                   extras={"captions": labels})  # fmt: skip
    y = [files.classes.index(name) for name in labels] if isinstance(labels, list) else labels
    return Raw(files.name, x, y, condition=condition, split=parts, warnings=notes, stream=stream)


def marks_of(source: str) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of the last change (ns) of every file that a source names; none of one that is no path."""
    base = named_options(source, {})[0]
    path = f"{base.partition('.npz:')[0]}.npz" if ".npz:" in base else base
    found = [Path(path)] if os.path.lexists(path) else sorted(map(Path, glob.glob(path)))
    files = [file for one in found for file in (sorted(one.rglob("[!.]*")) if one.is_dir() else [one]) if file.is_file()]
    return {} if base in SOURCES else {str(file): mark(file) for file in files}

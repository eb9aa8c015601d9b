"""One way in: a name, a path, an array or a data frame becomes `Data`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.config import build, describe
from likeli.data.annotated import find_annotated, read_annotated
from likeli.data.builtin import scenes
from likeli.data.builtin.sources import SOURCES, Raw, make_source
from likeli.data.column_types import ColumnType, read_types
from likeli.data.dataset import Data, Fractions, split_parts, split_rows
from likeli.data.frame import Frame, fit_frame
from likeli.data.in_files import find_files, named_options, sample_of_files, size_option
from likeli.data.infer import Fitted, check_shape, fit_labels, fit_space, relabel
from likeli.data.readers.hub import read_hub
from likeli.data.readers.idx import idx_parts, is_idx, read_idx, training_images
from likeli.data.readers.images import captions_of, read_captions, read_folder
from likeli.data.readers.npy import Archive, read_npy
from likeli.data.readers.tables import from_pandas, read_csv, read_parquet
from likeli.data.readers.text import read_text
from likeli.data.stream import Split
from likeli.errors import InputError, nearest, require
from likeli.spaces import Alphabet, Labels, Space, caption_space
from likeli.spaces.arrays import as_tensor

_PART, _ROLE = "train|valid|val|test", "x|images?|data|y|labels?|targets?"
ROLE = re.compile(f"(?P<first>{_PART})_(?P<of>{_ROLE})|(?P<role>{_ROLE})_(?P<last>{_PART})|(?P<only>{_PART})", re.IGNORECASE)
SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".parquet", ".txt", ".h5ad")


def load_data(
    source: Any,
    *,
    kind: str | None = None,
    labels: Any = None,
    categorical: Sequence[str] = (),
    types: Any = None,
    seed: int = 0,
    fractions: Fractions = (0.8, 0.1, 0.1),
    **options: Any,
) -> Data:
    """Examples from anywhere, with their space and a split that is a function of the seed.

    Arguments:
        source: a built-in name (see `describe_sources`), the path of a .npy, .npz, .csv, .tsv, .parquet, .h5ad or .txt file or
            of a folder of pictures, a folder or a pattern of .parquet files, whose rows stay there, `hf:NAME`, or an array,
            tensor, sparse matrix, data frame, AnnData or list of texts.  Above 256 MiB pictures stay there too.
        kind: real, pixels, binary, tokens, counts or table (`pixels:LEVELS`, `tokens:VOCAB`); inferred from the values if None.
        labels: what y is: the name of a column (of an AnnData's obs), of an array in the same .npz or of a scene's factor, a
            path, or an array; of a folder of pictures `captions`, for its captions.csv or captions.txt (`file,caption` a line),
            or the path of such a file.  A row without a label has −1 there, NaN in a vector, or a caption without a word.
        categorical: columns of numbers whose values are names, such as 404 and 500: each becomes a category.
        types: of columns, by name or as the path of a YAML or JSON file: real, integer, ordinal, categorical, boolean, date,
            drop (leaves it out), or `{type, categories, low, high}`; what is not said is guessed.  See `read_types`.
        seed: of the split, and of a drawn source.
        fractions: of the rows for training, validation and test.
        options: of the source, such as n=2000 for a drawn one, context=64 for text (see `read_text`) or layer="counts" of an
            AnnData; `"ring8:n=2000"` says the same.

    Raises:
        InputError: not found, damaged, or values that do not fit; file, line and column are named.
        MissingExtra: the file needs a package that is not installed.
    """
    require(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63, "seed", "a whole number from 0", seed)
    three = isinstance(fractions, (tuple, list)) and len(fractions) == 3
    numbers = three and all(isinstance(f, (int, float)) for f in fractions)
    require(numbers, "fractions", "three numbers (train, valid, test)", fractions)
    given = {k: v if isinstance(v, Alphabet) else str(v) for k, v in options.items() if v is not None}
    said = said_of(types, categorical)
    files, found = find_files(source, labels, given), find_annotated(source, given.get("layer"), kind)
    canonical: str | None
    if files is not None:
        raw, canonical = sample_of_rows(files, labels, said, seed, fractions), named_options(source, given)[2]
    elif found is not None:
        require(given.keys() <= {"layer"}, found.name, "no option but layer", ", ".join(given))
        require(not said or kind not in (None, "counts"), "types", "kind='table' beside them", "counts")
        raw, canonical = read_annotated(found, labels, kind, seed, fractions), found.source
    else:
        raw, canonical = read_source(source, labels, seed, given, fractions)
    say_types(raw, said, kind, "types" if types is not None else "categorical")
    if isinstance(raw.values, Tensor):
        check_shape(raw.values, raw.name)
    n = len(raw.values)
    require(n >= 2, raw.name, "at least 2 rows", f"{n} row{'s' * (n != 1)}; need at least 2")
    train, valid, test = raw.split or split_rows(n, seed, fractions)
    fitted = _fit(raw, kind, train)
    if raw.stream is not None:
        fitted.space = raw.stream.standardised(fitted.space)
    y, condition, more = _fit_labels(raw, train)
    parts = (("validation", valid, fractions[1]), ("test", test, fractions[2]))
    empty = " and ".join(part for part, rows, f in parts if f > 0 and not len(rows))
    few = [f"{raw.name}: only {n} rows"] * (n < 10)
    few += [f"{raw.name}: too few rows for every part of the split; empty: {empty}"] * bool(empty)
    return Data(
        raw.name, fitted.x, y, fitted.space, condition, train, valid, test,
        truth=raw.truth if kind in (None, raw.kind) else None,
        seed=seed,
        fractions=(float(fractions[0]), float(fractions[1]), float(fractions[2])),
        warnings=raw.warnings + fitted.warnings + more + few,
        kind=fitted.kind,
        origin={"source": canonical, "kind": kind, "labels": labels if isinstance(labels, str) else None}
        | _as_it_was(raw, labels)
        | ({"layer": found.layer} if found is not None and found.layer else {})
        | ({"types": {name: t.plain() for name, t in said.items()}} if said else {}),
        extras=raw.extras,
        stream=raw.stream,
        reasons=raw.values.reasons if isinstance(raw.values, Frame) else {},
        lines=raw.lines,
    )  # fmt: skip


def said_of(types: Any, categorical: Sequence[str] = ()) -> dict[str, ColumnType]:
    """What `types` and `categorical` say of columns, by name.

    Raises:
        InputError: both, of one column.
    """
    said = read_types(types)
    for name in [categorical] if isinstance(categorical, str) else categorical:
        require(name not in said, "categorical", "columns that types does not name", name)
        said[name] = ColumnType("categorical")
    return said


def say_types(raw: Raw, said: dict[str, ColumnType], kind: str | None, argument: str) -> None:
    """Tell a table what is said of its columns; rows of an array that is one become a frame."""
    if isinstance(raw.values, Tensor) and raw.values.ndim == 2 and (said or kind == "table"):
        raw.values = Frame.of_matrix(raw.values)
    if said:
        require(isinstance(raw.values, Frame), argument, "a table with named columns", raw.name)
        assert isinstance(raw.values, Frame)
        raw.values.say(said, raw.name)


def _as_it_was(raw: Raw, labels: Any) -> dict[str, Any]:
    """The order of a table's columns and the type of the one that labels are of, so that samples can be written alike."""
    if not isinstance(raw.values, Frame) or not isinstance(labels, str) or labels not in raw.values.order:
        return {}
    kept, dtype = {*raw.values.names, labels}, raw.values.dtypes.get(labels)
    order = [name for name in raw.values.order if name in kept]
    return {"columns": order} | ({} if dtype is None else {"label_dtype": describe(dtype)})


def _fit(raw: Raw, kind: str | None, train: Tensor) -> Fitted:
    if isinstance(raw.values, Frame):
        return fit_frame(raw.values, train, kind, raw.name)
    if raw.space is not None and kind in (None, raw.kind):
        return Fitted(raw.space.check(raw.values, what=raw.name), raw.space, raw.kind or "real")
    return fit_space(raw.values, train, kind or raw.kind, raw.name)


def _fit_labels(raw: Raw, train: Tensor) -> tuple[Tensor | None, Space | None, list[str]]:
    if raw.y is None:
        return None, None, []
    what = f"{raw.name}: labels"
    if raw.condition is not None:
        return raw.condition.check(raw.y, what=what, missing=raw.stream is not None), raw.condition, []
    return fit_labels(raw.y, len(raw.values), train, what, raw.lines)


def rebuild(description: dict[str, Any], source: Any = None) -> Data:
    """The same rows in the same split as `Data.describe()` recorded.

    Arguments:
        description: of the data.
        source: takes the place of the recorded source, for a file that moved or data that were given in memory.

    Raises:
        InputError: the source is not known or holds other rows than it did.
    """
    place = description.get("source") if source is None else source
    require(place is not None, "data", "the data themselves, since they were given in memory", "nothing")
    asked = ("kind", "labels", "categorical", "types", "layer", "seed")
    options = {k: description[k] for k in asked if description.get(k) is not None}
    if isinstance(description.get("space", {}).get("alphabet"), dict):
        options["vocab"] = build(description["space"]["alphabet"], Alphabet)  # type: ignore[type-abstract]
    if "streamed" not in description and isinstance(place, (str, os.PathLike)) and find_files(place) is not None:
        options["stream"] = 0  # large pictures were in memory once, in another split
    fractions = description.get("fractions")
    data = load_data(place, fractions=tuple(fractions) if isinstance(fractions, list) else fractions, **options)
    same = data.fingerprint() == description.get("fingerprint")
    require(same, str(description.get("name")), "the rows that the run was fitted on", "other rows: the source has changed")
    return data


def sample_of_rows(files: Any, labels: Any, said: dict[str, ColumnType], seed: int, fractions: Fractions) -> Raw:
    """What `load_data` needs of rows that stay in files; see `find_files`."""
    split_rows(2, seed, fractions)  # whether these are three parts of one
    raw = sample_of_files(files, labels, said, Split(seed, fractions))
    return take_labels(raw, labels) if isinstance(raw.values, Frame) and labels is not None else raw


def is_texts(source: Any) -> bool:
    """Whether a source is a list of texts."""
    return isinstance(source, (list, tuple)) and len(source) > 0 and all(isinstance(t, str) for t in source)


def read_source(
    source: Any, labels: Any, seed: int, options: dict[str, Any], fractions: Fractions = (1.0, 0.0, 0.0)
) -> tuple[Raw, str | None]:
    """(rows, the text that reads them again or None for data in memory)."""
    if isinstance(source, (str, os.PathLike)):
        base, given, canonical = named_options(source, options)
        raw = _named(base, labels, seed, given, fractions)
    elif isinstance(tensors := getattr(source, "tensors", None), tuple):  # torch's TensorDataset
        require(not options and len(tensors) in (1, 2), "data", "a TensorDataset of rows, or of rows and labels", len(tensors))
        canonical, raw = None, Raw("tensors", as_tensor(tensors[0], "data"), *tensors[1:])
    elif is_texts(source):
        canonical, raw = None, read_text(source, options, seed, fractions)
    else:
        require(not options, "options", "none for data given in memory", ", ".join(options))
        frame = hasattr(source, "iloc") and getattr(source, "ndim", 0) == 2
        canonical, raw = None, source
        if not isinstance(source, Raw):
            raw = Raw("frame", from_pandas(source, "frame")) if frame else Raw("array", as_tensor(source, "data"))
    if isinstance(raw.values, Frame) and isinstance(labels, str) and (labels in raw.values.names or not _is_path(labels)):
        take_labels(raw, labels)
    if labels is not None and not raw.labelled:
        named = isinstance(labels, str)
        require(not named or _is_path(labels), "labels", f"a column, array or .npy file that {raw.name} has labels in", labels)
        raw.y, raw.condition = read_npy(labels) if named else labels, None
    return raw, canonical


def take_labels(raw: Raw, labels: str) -> Raw:
    """The column `labels` of a table becomes y."""
    assert isinstance(raw.values, Frame)
    cells = raw.values.pop(labels, raw.name)
    raw.y, raw.labelled = relabel(cells) if isinstance(cells, np.ndarray) else cells, True
    return raw


def _is_path(labels: str) -> bool:
    return os.path.splitext(labels)[1].lower() == ".npy" and os.path.lexists(labels)


def _named(base: str, labels: Any, seed: int, given: dict[str, Any], fractions: Fractions) -> Raw:
    if base in SOURCES:
        raw = make_source(base, seed, given)
        factors = raw.extras.get("names", {})
        if factors and isinstance(labels, str):
            if labels == "captions":
                raw.y, raw.labelled = scenes.draw_captions(raw.extras["factors"], seed), True
                raw.condition, raw.extras["captions"] = caption_space([scenes.SPOKEN], scenes.LONGEST), raw.y
                return raw
            known = labels in factors
            require(known, "labels", f"captions, or a factor: {', '.join(factors)}{nearest(labels, factors)}", labels)
            raw.y, raw.labelled = raw.extras["factors"][:, list(factors).index(labels)], True
            raw.condition = Labels(len(factors[labels]), tuple(factors[labels]))
        return raw
    if base.startswith("hf:"):
        return read_hub(base[3:], {k: v for k, v in given.items() if k != "stream"})
    path, _, key = base.partition(".npz:")
    if key:
        return _from_archive(f"{path}.npz", key, labels, seed, fractions)
    if not os.path.lexists(base):
        raise InputError(
            f"data: {base!r} is neither a built-in source ({', '.join(SOURCES)}) nor a file or folder{nearest(base, SOURCES)}"
        )
    suffix, name = os.path.splitext(base)[1].lower(), os.path.basename(base)
    if suffix == ".txt" and not os.path.isdir(base):
        given |= {"context": given.pop("length")} if "length" in given else {}  # as earlier versions wrote it
        return read_text(base, given, seed, fractions)
    folder = os.path.isdir(base)
    require(given.keys() <= ({"size", "stream"} if folder else set()), base, "no such option", ", ".join(given))
    if is_idx(base) or (folder and training_images(Path(base))):
        return _from_idx(Path(base), seed, fractions)
    if folder:
        pictures, files, classes, sizes, notes = read_folder(base, size_option(given))
        raw = Raw(os.path.basename(os.path.normpath(base)), torch.from_numpy(pictures), classes, warnings=notes)
        captions = captions_of(base, labels)
        if captions is not None:
            raw.y, notes = read_captions(captions, files)
            raw.condition, raw.labelled, raw.extras["captions"] = caption_space(raw.y), True, raw.y
            raw.warnings += notes
        return _with_parts(raw, sizes, seed, fractions) if sizes else raw
    if suffix == ".npy":
        return Raw(name, as_tensor(read_npy(base), base))
    if suffix == ".npz":
        return _from_archive(base, None, labels, seed, fractions)
    if suffix in (".csv", ".tsv", ".parquet"):
        return Raw(name, read_parquet(base) if suffix == ".parquet" else read_csv(base))
    raise InputError(f"{base}: expected a folder of pictures or a file ending in {', '.join(SUFFIXES)}, got {suffix or name!r}")


def _from_idx(path: Path, seed: int, fractions: Fractions) -> Raw:
    """A set of IDX files: the folder of one set, or its file of training images, or any one file."""
    if path.is_dir():
        sets = training_images(path)
        require(len(sets) == 1, str(path), "one set of IDX files; name its file of training images", [p.name for p in sets])
        (images,) = sets
    else:
        images = path
    parts = {part: (read_idx(x), None if y is None else read_idx(y)) for part, x, y in idx_parts(images)}
    return _of_parts(path.name, parts, seed, fractions)


def _of_parts(name: str, parts: dict[str, tuple[Any, Any]], seed: int, fractions: Fractions) -> Raw:
    """Rows that come in parts, (x, y or None) each, one after the other."""
    tensors = {part: as_tensor(x, f"{name}: {part}") for part, (x, _) in parts.items()}
    shapes = {part: tuple(x.shape[1:]) for part, x in tensors.items()}
    require(len(set(shapes.values())) == 1, name, "parts of one shape", shapes)
    labels = [y for _, y in parts.values()]
    x, y = torch.cat(list(tensors.values())), None
    if all(label is not None for label in labels):
        lengths = {part: (len(x), len(label)) for (part, x), label in zip(tensors.items(), labels)}
        require(all(a == b for a, b in lengths.values()), name, "a label for every row of every part", lengths)
        y = np.concatenate([label[:, 0] if label.shape[1:] == (1,) else label for label in labels])
    raw = Raw(name, x, y)
    return _with_parts(raw, {part: len(x) for part, x in tensors.items()}, seed, fractions) if len(parts) > 1 else raw


def _with_parts(raw: Raw, sizes: dict[str, int], seed: int, fractions: Fractions) -> Raw:
    raw.split = split_parts(sizes, seed, fractions)
    own = " and ".join(f"{'validation' if part == 'valid' else part} part ({sizes[part]:,} rows)" for part in list(sizes)[1:])
    raw.warnings += [f"{raw.name}: its own {own} is kept as it is; the rest of the split is of its training rows"] * bool(own)
    return raw


def _own_parts(archive: Archive) -> dict[str, dict[str, str]]:
    """The arrays of an archive by part and role, as `x_train` or `train_images` name them; empty without a training part."""
    found: dict[str, dict[str, str]] = {}
    for key in archive.keys:
        match = ROLE.fullmatch(key)
        if match:
            word = (match["first"] or match["last"] or match["only"]).lower()
            said = (match["of"] or match["role"] or "x").lower()
            role = "y" if said.rstrip("s") in ("y", "label", "target") else "x"
            found.setdefault("valid" if word.startswith("val") else word, {})[role] = key
    parts = {part: found[part] for part in ("train", "valid", "test") if "x" in found.get(part, {})}
    return parts if "train" in parts else {}


def _from_archive(path: str, key: str | None, labels: Any, seed: int, fractions: Fractions) -> Raw:
    archive = Archive(path)
    parts = {} if key else _own_parts(archive)
    if parts and labels is None:
        read = {p: (archive.read(k["x"]), archive.read(k["y"]) if "y" in k else None) for p, k in parts.items()}
        return _of_parts(os.path.basename(path), read, seed, fractions)
    names = {k.lower(): k for k in archive.keys}
    named = isinstance(labels, str) and labels in archive.keys
    arrays = [k for k in archive.keys if not (named and k == labels)]
    chosen = key or (arrays[0] if len(arrays) == 1 else names.get("x") or names.get("data"))
    if chosen is None:
        listed = ", ".join(arrays[:12])
        raise InputError(f"{path}: which of {listed}? write {os.path.basename(path)}:{arrays[0]}")
    x = as_tensor(archive.read(chosen), f"{path}:{chosen}")
    y = archive.read(labels) if named else None
    if labels is None and key is None and chosen.lower() == "x" and "y" in names and archive.shape(names["y"]) == (len(x),):
        y = archive.read(names["y"])
    return Raw(os.path.basename(path) + (f":{key}" if key else ""), x, y, labelled=named)

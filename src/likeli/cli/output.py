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
from typing import TYPE_CHECKING, Any

from likeli.cli.ending import unfinished
from likeli.errors import FAILED, InputError, LikeliError, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.spaces import Space


def emit(args: argparse.Namespace, payload: Mapping[str, Any], text: str) -> None:
    """The result: `payload` as one line of JSON with `--json`, else `text`."""
    print(to_json(payload) if args.json else text)


def emit_rows(
    args: argparse.Namespace, about: Mapping[str, Any], columns: Mapping[str, list[Any]], done: str, below: str
) -> None:
    """A result with a line a row: in the .csv or .parquet file `--out`, saying `done`, or printed with `below` under it.

    In a .h5ad, of which the rows are, they are columns of obs called likeli_NAME.
    """
    if not args.out:
        emit(args, {**about, **columns}, f"{aligned(list(columns), zip(*columns.values()))}{below}")
        return
    if is_h5ad(args.out):
        numbers = {f"likeli_{name}": values for name, values in columns.items() if name not in ("row", *about)}
        add_to_h5ad(args, {"run": args.run_folder, **about}, obs=numbers)
        emit(args, {**about, "out": args.out}, f"{done} in {args.out}")
        return
    import pandas

    from likeli.data import write_part

    with new_file(args.out, overwrite=args.overwrite) as path:
        write_part(path, pandas.DataFrame(columns, dtype=object), 0)
    emit(args, {**about, "out": args.out}, f"{done} in {args.out}")


def is_h5ad(path: str) -> bool:
    """Whether a file is an AnnData, by its name."""
    return Path(path).suffix.lower() == ".h5ad"


def check_rows_out(args: argparse.Namespace, suffixes: Sequence[str] = ()) -> bool:
    """Refuse an output of rows that cannot be written, before any work; whether it is a .h5ad, which has to come from one.

    Raises:
        InputError: as for `check_new`; a .h5ad for rows of another kind; anndata is not installed.
    """
    annotated = args.out is not None and is_h5ad(args.out)
    check_new(args.out, overwrite=args.overwrite, suffixes=[*suffixes, ".h5ad"] if suffixes else ())
    if annotated:
        from likeli.data.annotated import FILE
        from likeli.data.readers.h5ad import need_anndata

        found = FILE.fullmatch(args.data)
        fits = found is not None and Path(found["path"]).is_file()
        require(fits, "out", "a .h5ad only for the rows of a .h5ad, to which it adds", f"{args.out} for {args.data}")
        need_anndata("writing .h5ad files")
    return annotated


def check_matrix(space: Space, path: str | None) -> None:
    """Refuse a .h5ad for samples that are no rows of numbers, before any work; any other path is none.

    Raises:
        InputError: examples of another shape, or with names in their cells.
        MissingExtra: anndata is not installed.
    """
    if path is None or not is_h5ad(path):
        return
    from likeli.data.readers.h5ad import need_anndata

    numbers = len(space.shape) == 1 and space.categorical is None and space.alphabet is None and not space.calendars
    require(numbers, "out", "a .h5ad only for rows of numbers, such as counts", f"{path} for {space.kind()} data")
    need_anndata("writing .h5ad files")


def add_to_h5ad(args: argparse.Namespace, about: Mapping[str, Any], **more: Any) -> None:
    """Write `--out`: all that is in the .h5ad of the rows, and more; see `with_annotations`."""
    from likeli.data.annotated import FILE
    from likeli.data.readers.h5ad import read_h5ad, with_annotations, write_h5ad

    found = FILE.fullmatch(args.data)
    assert found is not None
    adata = with_annotations(read_h5ad(found["path"]), about, **more)
    with new_file(args.out, overwrite=args.overwrite) as path:
        write_h5ad(path, adata)


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


def warn(warnings: Iterable[str]) -> None:
    """Each as one line on standard error."""
    for text in warnings:
        log(f"likeli: warning: {' '.join(text.split())}")


def complain(message: str, argv: Sequence[str], code: int = FAILED, type_: str = "") -> int:
    """Say why a command failed, on standard error and, with `--json`, as the one object; gives `code` back."""
    log(f"likeli: {message}")
    if "--json" in argv:
        with contextlib.suppress(OSError):
            print(to_json({"error": message, "exit_code": code, "type": type_}))
    return code


def aligned(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose columns are aligned by spaces: text to the left, numbers to the right."""
    columns = list(zip(header, *([str(c) for c in row] for row in rows)))
    widths = [max(map(len, column)) for column in columns]
    right = [all(c == "-" or c.lstrip("+-")[:1].isdigit() for c in column[1:]) for column in columns]
    head, *cells = zip(*columns)
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)).rstrip()
        for line in (head, ["-" * w for w in widths], *cells)
    )


def with_error(value: float, stderr: float | None, digits: int) -> str:
    """`1.234 ± 0.005`."""
    return f"{value:.{digits}f}" + ("" if stderr is None else f" ± {stderr:.{digits}f}")


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
    unfinished.add(partial)
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        raise LikeliError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
        unfinished.discard(partial)


def check_new(path: str | None, *, overwrite: bool, suffixes: Sequence[str] = (), argument: str = "out") -> None:
    """Refuse an output that cannot be written, before any work is done; no path is no output.

    Raises:
        InputError: it exists and `overwrite` is off, its folder is missing or not writable, or it is of another kind.
    """
    if not path:
        return
    target = Path(path)
    folder = target.parent
    fitting = not suffixes or target.suffix.lower() in suffixes
    require(fitting, argument, f"a name that ends in {', '.join(suffixes)}", path)
    require(folder.is_dir(), argument, "a file in an existing folder", path)
    require(os.access(folder, os.W_OK), argument, f"a folder that can be written, {folder} cannot", path)
    require(not target.is_dir(), argument, "a file", f"the folder {path}")
    require(target.is_file() or not target.exists(), argument, "a regular file", f"the device or pipe {path}")
    require(overwrite or not target.exists(), argument, "a new file, or --overwrite", f"{path}, which exists")
    if target.suffix.lower() == ".parquet":
        from likeli.data import need_pyarrow

        need_pyarrow()


def write_samples(path: Path, x: Tensor, space: Space, labels: Mapping[str, list[Any]], about: Mapping[str, Any]) -> None:
    """Samples as the kind of file that the path's suffix names; a table has their labels too, where they were in the data.

    Arguments:
        about: what the run says of its data.
    """
    from likeli import data
    from likeli.cli.prompts import set_out
    from likeli.show.pictures import picture
    from likeli.spaces import Tokens

    suffix = path.suffix.lower()
    if suffix == ".png":
        picture(x, space).save(path, format="PNG", optimize=True)
    elif suffix == ".npy":
        data.write_npy(path, x.cpu().numpy())
    elif suffix in (".csv", ".parquet"):
        data.write_part(path, data.frame_of(x, space, labels, about, typed=suffix == ".parquet"), 0)
    elif suffix == ".h5ad":
        data.write_matrix(path, x, space.names, labels)
    elif isinstance(space, Tokens):
        path.write_text(set_out(space.decode(x)), encoding="utf-8")
    else:
        raise InputError("out: expected a name that ends in .npy, .csv or .parquet, since the data are not text, got .txt")

"""Getting a run folder ready, cleaning up after a crash, and replacing an old run only when the new one has saved."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from likeli.checkpoint import disk, locking
from likeli.checkpoint.generation import FOLDER, MANIFEST, PARTIAL, generations, name_of
from likeli.checkpoint.history import NAME, PENDING, begin_pending, pending, truncate_history
from likeli.errors import InputError, LikeliError, require

# what the system says to a path that the user should not have given
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST, errno.ENOENT}


def prepare_folder(folder: Path | str, overwrite: bool = False, resume: bool = False) -> bool:
    """Make a folder ready for a run, before anything costly; nothing that can be loaded is touched.

    Leftovers of a crash are removed.  With `overwrite` the old run stays whole, and is what loads, until the new one has saved.

    Arguments:
        folder: created if need be.
        overwrite: a run in it is to be replaced; files that are not a run's are left alone.
        resume: a run in it is to be continued.

    Returns:
        Whether there is a generation to resume from.

    Raises:
        InputError: not empty and neither asked for, not a run to resume, in use by another writer, or not writable.
    """
    folder = Path(folder)
    require(not (overwrite and resume), "overwrite", "not together with resume", "both")
    if not (overwrite or resume):
        require_empty(folder, "; overwrite replaces it, resume continues it")
    names = _names(folder)
    require(MANIFEST not in names, str(folder), "a run folder", "a single model; use another folder")
    if resume and names and FOLDER not in names:
        ours = all(name in (locking.NAME, NAME) or PENDING.fullmatch(name) for name in names)
        require(ours, str(folder), "a run to resume", f"one with {_some(names)}")
    with input_errors(), nullcontext() if locking.held(folder) else locking.lock(folder):
        return _prepare(folder, overwrite, resume, bool(names - {locking.NAME}))


def _prepare(folder: Path, overwrite: bool, resume: bool, used: bool) -> bool:
    _recover(folder)
    serials = generations(folder)
    if overwrite and used:
        begin_pending(folder, max(serials, default=0))
    if resume and not serials and used:
        truncate_history(folder, 0)  # rows of a run that never saved: it starts again
    return resume and bool(serials)


def _recover(folder: Path) -> None:
    disk.remove_folder(folder / FOLDER / PARTIAL)
    found = pending(folder)
    if found and not finish_replacement(folder):
        disk.remove_file(folder / found[0])


def finish_replacement(folder: Path) -> bool:
    """If a run has saved that was to replace another, remove the other; interrupted anywhere, it can be done again."""
    found = pending(folder)
    if not found or max(generations(folder), default=0) <= found[1]:
        return False
    remove_generations(folder, [serial for serial in generations(folder) if serial <= found[1]])
    disk.rename(folder / found[0], folder / NAME)
    return True


def remove_generations(folder: Path, serials: list[int]) -> None:
    """Remove generations, each by way of the temporary name, so that a half-removed one is never taken for a whole."""
    parent = folder / FOLDER
    for serial in serials:
        disk.rename(parent / name_of(serial), parent / PARTIAL)
        disk.remove_folder(parent / PARTIAL)


def require_empty(folder: Path, hint: str = "") -> None:
    """Raise the `InputError` unless the folder is missing or empty; a lock that a dead process left does not count."""
    names = _names(folder) - {locking.NAME}
    require(not names, str(folder), "a new or empty folder", f"one with {_some(names)}{hint}")


@contextmanager
def input_errors() -> Iterator[None]:
    """Inside the block, a path that the system will not let us write is the user's mistake."""
    try:
        yield
    except LikeliError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in REFUSALS and not isinstance(error, InputError):
            raise InputError(str(error)) from error.__cause__
        raise


def _names(folder: Path) -> set[str]:
    try:
        folder.stat()
    except FileNotFoundError:
        return set()
    except (OSError, ValueError):
        pass  # the call below says why
    with disk.opened_folder(folder) as fd:
        return set(disk.listing(fd, folder))


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")

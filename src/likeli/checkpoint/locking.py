"""One writer for a run folder.

The kernel's lock on `.lock` is the truth: it ends with its process, however that dies, and a reused process number cannot
hold it.  The file's text only tells the second comer whom it met.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from likeli.checkpoint import disk
from likeli.errors import InputError, LikeliError

NAME = ".lock"
_HELD: set[tuple[int, Path]] = set()  # (process, folder): a fork does not inherit the right to write


def held(folder: Path | str) -> bool:
    """Whether this process holds the lock of `folder`."""
    return (os.getpid(), Path(folder).resolve()) in _HELD


@contextmanager
def lock(folder: Path | str) -> Iterator[None]:
    """Hold the only right to write to a run folder, which is created if need be.

    A lock left by a process that died is taken over, with a warning if that was on another machine.

    Raises:
        InputError: another writer holds it; its process and machine are named.
        LikeliError: the folder cannot be written.
    """
    folder = Path(folder)
    disk.make_folder(folder)
    key = (os.getpid(), folder.resolve())
    with _acquired(folder / NAME):
        _HELD.add(key)
        try:
            yield
        finally:
            _HELD.discard(key)


@contextmanager
def _acquired(path: Path) -> Iterator[None]:
    while True:
        with disk.appending(path) as fd:
            with disk.writing(path, "locked"):
                if not disk.try_lock(fd):
                    owner = _read(fd, path) or "another process"
                    raise InputError(f"{path.parent}: expected a run that nobody is writing, got one that {owner} is writing")
            if not disk.is_file_at(fd, path):
                continue  # its last owner removed the name between our opening and our locking
            _sign(fd, path)
            try:
                yield
            finally:
                with suppress(LikeliError):  # the lock ends with the descriptor; a name that stays is harmless
                    disk.remove_file(path)
            return


def _sign(fd: int, path: Path) -> None:
    host, left = socket.gethostname(), _read(fd, path)
    if left and not left.endswith(f" on {host}"):
        warnings.warn(f"{path.parent}: taking over from {left}, which no longer holds its lock", stacklevel=5)
    with disk.writing(path):
        disk.truncate(fd, 0)
        disk.write_all(fd, memoryview(f"process {os.getpid()} on {host}".encode()))


def _read(fd: int, path: Path) -> str:
    with disk.reading(path):
        return disk.one_line(disk.read_at(fd, 200, 0).decode("utf-8", "replace"))

"""Every file call of a checkpoint, in one place.

Writing: a failed call is one `LikeliError` that names the path and the cause.  Reading: only regular files of a bounded size,
named by us and never by a file's content, opened once below a folder that is already open.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from likeli.errors import CheckpointError, InputError, LikeliError, brief, one_line, require

KINDS = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
SMALL = 1 << 26  # bytes a file may have without being searched for holes
CHUNK = 1 << 24  # bytes handed to the system in one call


@contextmanager
def writing(path: Path, verb: str = "written") -> Iterator[None]:
    """Turn the system's refusal inside the block into one `LikeliError` naming `path` and the cause."""
    try:
        yield
    except OSError as error:
        raise LikeliError(one_line(f"{brief(path)}: cannot be {verb}: {error.strerror or error}")) from error


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn the system's refusal inside the block into one `CheckpointError` naming `path` and the cause."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the user's path
        if isinstance(error, LikeliError):
            raise
        raise CheckpointError(
            one_line(f"{brief(path)}: cannot be read: {getattr(error, 'strerror', None) or error}")
        ) from error


# --- writing -----------------------------------------------------------------------------------------------------------


def write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> dict[str, int | str]:
    """Write a file that must not exist, and fsync it; gives its size and sha256."""
    digest, size = hashlib.sha256(), 0
    with writing(path), _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            digest.update(view)
            size += len(view)
            write_all(fd, view)
        os.fsync(fd)
    return {"bytes": size, "sha256": digest.hexdigest()}


def write_all(fd: int, view: memoryview) -> None:
    """Write every byte; a call may take only some of them."""
    while view:
        view = view[os.write(fd, view[:CHUNK]) :]


def make_folder(path: Path) -> None:
    """Create a folder and its parents; a new one is fsynced into its parent, so that it outlives a power cut."""
    with writing(path, "created"):
        try:
            os.mkdir(path)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(path).st_mode):
                return
            raise
        except FileNotFoundError:
            make_folder(path.parent)
            os.mkdir(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """fsync a folder: its names are on the disk after this."""
    with writing(path), _opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def rename(old: Path, new: Path) -> None:
    """Move `old` to `new` in one step, and fsync the folder that holds them."""
    with writing(new):
        os.rename(old, new)
    sync_folder(new.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder of files, if it exists; links are removed, never followed."""
    with writing(path, "removed"):
        try:
            folder = stat.S_ISDIR(os.lstat(path).st_mode)
        except FileNotFoundError:
            return
        for name in os.listdir(path) if folder else ():
            os.unlink(path / name)
        (os.rmdir if folder else os.unlink)(path)


@contextmanager
def appending(path: Path) -> Iterator[int]:
    """An open regular file, created if need be, whose writes go to its end."""
    with _opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        with writing(path):
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
        if not regular:
            raise LikeliError(one_line(f"{brief(path)}: cannot be written: expected a regular file"))
        yield fd


def sync(fd: int) -> None:
    """fsync an open file."""
    os.fsync(fd)


def truncate(fd: int, size: int) -> None:
    """Cut an open file."""
    os.ftruncate(fd, size)


def size(fd: int) -> int:
    """Bytes of an open file."""
    return os.fstat(fd).st_size


def read_at(fd: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes of an open file from `offset`."""
    return os.pread(fd, count, offset)


def remove_file(path: Path) -> None:
    """Remove a file or a link."""
    with writing(path, "removed"):
        os.unlink(path)


def try_lock(fd: int) -> bool:
    """Take the kernel's advisory lock on an open file; it ends with the process, however that dies."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    with writing(path):  # not around the block, whose errors are its own
        fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield fd
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            os.close(fd)
        raise
    with writing(path):
        os.close(fd)


# --- reading -----------------------------------------------------------------------------------------------------------


@contextmanager
def opened_folder(path: Path, parent: int | None = None) -> Iterator[int]:
    """An open folder: the user's own path may be a link, one whose parent is open already may not."""
    name, follow = (path, 0) if parent is None else (path.name, os.O_NOFOLLOW)
    with reading(path):
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=parent)
    with _closing(fd):
        yield fd


def listing(folder: int, where: object) -> dict[str, bool]:
    """The names in an open folder, and whether each is a folder itself (a link to one is not)."""
    with reading(where), os.scandir(folder) as entries:
        return {e.name: e.is_dir(follow_symlinks=False) for e in entries}


@contextmanager
def opened_file(folder: int, name: str, where: object, limit: int) -> Iterator[tuple[int, int]]:
    """The descriptor and size of one regular file of at most `limit` bytes.

    Raises:
        CheckpointError: missing, a link, a pipe, a device, or too big; nothing is read.
    """
    with reading(where):
        _check_regular(os.stat(name, dir_fd=folder, follow_symlinks=False), where)  # opening a device can itself do things
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with _closing(fd):
        with reading(where):
            found = os.fstat(fd)
            dense = found.st_size <= SMALL or _is_dense(fd, found.st_size)
        _check_regular(found, where)
        require(found.st_size <= limit, where, f"at most {limit} bytes", f"{found.st_size}", CheckpointError)
        require(dense, where, "a file that is all there", "one of mostly holes", CheckpointError)
        yield fd, found.st_size


def _is_dense(fd: int, size: int) -> bool:
    """Whether at least one byte in 16 is stored: a file of holes costs a stranger nothing, and us its whole size."""
    stored, at = 0, 0
    while 16 * stored < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return False
            raise
        end = os.lseek(fd, at, os.SEEK_HOLE)
        stored, at = stored + end - at, end
    return True


@contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):  # nothing was written, so nothing can be lost
            os.close(fd)


def _check_regular(found: os.stat_result, where: object) -> None:
    kind = next((name for test, name in KINDS if test(found.st_mode)), "a device")
    require(stat.S_ISREG(found.st_mode), where, "a regular file", kind, CheckpointError)


def read_into(fd: int, view: memoryview, offset: int, where: object) -> None:
    """Fill `view` with the file's bytes from `offset`."""
    with reading(where):
        while view:
            n = os.preadv(fd, [view[:CHUNK]], offset)
            require(n != 0, where, f"{len(view)} more bytes", "the end of the file", CheckpointError)
            view, offset = view[n:], offset + n


def read_bytes(folder: int, name: str, where: object, limit: int) -> bytes:
    """The whole of a small regular file."""
    with opened_file(folder, name, where, limit) as (fd, size):
        data = bytearray(size)
        read_into(fd, memoryview(data), 0, where)
    return bytes(data)


def physical_memory() -> int:
    """Bytes of memory this machine has: no file may ask for more."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
    make_folder(folder)
    key = (os.getpid(), folder.resolve())
    with _acquired(folder / NAME):
        _HELD.add(key)
        try:
            yield
        finally:
            _HELD.discard(key)


@contextmanager
def _acquired(path: Path) -> Iterator[None]:
    """The lock's file stays when the lock ends, empty: were its name removed, two writers could hold two files of that name."""
    with appending(path) as fd:
        with writing(path, "locked"):
            if not try_lock(fd):
                owner = _read(fd, path) or "another process"
                raise InputError(f"{path.parent}: expected a run that nobody is writing, got one that {owner} is writing")
        _sign(fd, path)
        try:
            yield
        finally:
            with suppress(OSError):
                truncate(fd, 0)
            fcntl.flock(fd, fcntl.LOCK_UN)  # before the descriptor is closed, in which an interrupt might come


def _sign(fd: int, path: Path) -> None:
    host, left = socket.gethostname(), _read(fd, path)
    if left and not left.endswith(f" on {host}"):
        warnings.warn(f"{path.parent}: taking over from {left}, which no longer holds its lock", stacklevel=5)
    with writing(path):
        truncate(fd, 0)
        write_all(fd, memoryview(f"process {os.getpid()} on {host}".encode()))


def _read(fd: int, path: Path) -> str:
    with reading(path):
        return one_line(read_at(fd, 200, 0).decode("utf-8", "replace"))

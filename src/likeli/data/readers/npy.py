"""Reading files that may come from strangers: sizes are checked before memory is taken, and nothing is ever unpickled."""

from __future__ import annotations

import codecs
import io
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from likeli.errors import InputError, LikeliError, nearest, require

OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)  # a pipe must not block
MAX_MEMBERS = 10_000
MAX_RATIO, FREE_RATIO_BYTES = 200, 2**26  # a member above 64 MiB may not have been packed more than 200 times


def memory_limit() -> int:
    """Bytes that one file's content may take: half of this machine's memory."""
    if not hasattr(os, "sysconf"):
        return 2**33
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@contextmanager
def open_regular(path: str | Path, *, whole: bool = True) -> Iterator[IO[bytes]]:
    """The file, opened for reading, after it was seen to be a regular file that holds something and fits into memory.

    Arguments:
        whole: whether all of it is to be read at once, so that it has to fit.

    Raises:
        InputError: missing, unreadable, a folder, a device, a pipe, a loop of links, empty, too large.
    """
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        require(not stat.S_ISDIR(status.st_mode), str(path), "a file", "a folder")
        require(stat.S_ISREG(status.st_mode), str(path), "a regular file", "a device or pipe")
        require(status.st_size > 0, str(path), "a file with content", "an empty file (0 bytes)")
        fits = not whole or status.st_size <= memory_limit()
        require(fits, str(path), f"at most {memory_limit():,} bytes (half of memory)", f"{status.st_size:,} bytes")
        yield file


def read_utf8(path: str | Path) -> bytes:
    """The content of a UTF-8 text file, its byte-order mark dropped and its line ends made `\\n`.

    Raises:
        InputError: not UTF-8, or NUL characters; the line is named.
    """
    with open_regular(path) as file:
        content = file.read()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: expected UTF-8 text, got UTF-16; save it as UTF-8")
    nul = content.find(b"\0")
    if nul >= 0:
        line = content.count(b"\n", 0, nul) + 1
        raise InputError(f"{path}: line {line} holds a NUL character; this is not a text file")
    try:
        content.isascii() or content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(f"{path}: line {line} is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from error
    content = content.removeprefix(codecs.BOM_UTF8)
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def read_npy(path: str | Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        InputError: damaged, of objects, or larger or smaller than its header says.
    """
    with open_regular(path) as file:
        return _read_array(file, os.fstat(file.fileno()).st_size, str(path))


def _read_array(file: IO[bytes], size: int, what: str) -> np.ndarray:
    shape, fortran, dtype, header = _read_header(file, what)
    require(dtype.kind != "O" and not dtype.hasobject, what, "an array of numbers", "an array of pickled objects, never loaded")
    require(dtype.kind in "biufUS", what, "an array of numbers", f"an array of {dtype}"[:80])
    declared = math.prod(shape) * dtype.itemsize
    if declared != size - header:
        relation = "is truncated" if size - header < declared else "has bytes left over"
        raise InputError(f"{what}: {relation}: its header declares {declared:,} bytes of {shape}, it holds {size - header:,}")
    content = file.read(declared)
    require(len(content) == declared, what, f"{declared:,} bytes", f"{len(content):,}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _read_header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    start = file.read(10)
    major = start[6] if len(start) == 10 and start[:6] == np.lib.format.MAGIC_PREFIX else 0
    require(major in (1, 2, 3), what, "a .npy array", "other bytes")
    more = file.read(2) if major > 1 else b""
    length = int.from_bytes(start[8:] + more, "little")
    require(length <= 100_000, what, "a header of at most 100,000 bytes", f"{length:,} bytes")
    text = file.read(length)
    require(len(text) == length, what, "a whole header", "a truncated one")
    head = io.BytesIO(start[8:10] + text) if major == 1 else io.BytesIO(start[8:] + more + text)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(head, max_header_size=100_000)
    except Exception as error:  # a hostile header meets numpy's parser in many ways
        raise InputError(f"{what}: its header cannot be read") from error
    require(len(shape) <= 32 and all(n >= 0 for n in shape), what, "a shape", shape)
    return shape, fortran, dtype, len(start) + len(more) + length


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """One array of numbers as .npy."""
    with Path(path).open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


class Archive:
    """The arrays of a .npz file, each read only when asked for.

    Arguments:
        path: the file.

    Raises:
        InputError: not a zip file, or members that are not plain arrays.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        with self._open() as zipped:
            members = zipped.infolist()
        require(len(members) <= MAX_MEMBERS, str(path), f"at most {MAX_MEMBERS} arrays", len(members))
        for name in (m.filename for m in members):
            plain = name.endswith(".npy") and not (name.startswith("/") or "\\" in name or ".." in name.split("/"))
            require(plain, str(path), "members that are plain .npy names", repr(name))
        self.keys = [m.filename[:-4] for m in members]
        require(len(set(self.keys)) == len(self.keys), str(path), "distinct names", ", ".join(self.keys))
        require(len(self.keys) > 0, str(path), "at least one array", "none")

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with open_regular(self.path) as file:
            try:
                zipped = zipfile.ZipFile(file)
            except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
                raise InputError(f"{self.path}: expected a .npz file, got something damaged or other") from error
            try:
                with zipped:
                    yield zipped
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
                if isinstance(error, LikeliError):
                    raise
                raise InputError(f"{self.path}: is damaged: {str(error)[:100]}") from error

    def read(self, key: str) -> np.ndarray:
        """The array called `key`.

        Raises:
            InputError: unknown (the nearest is suggested), damaged, or it would unpack to too much.
        """
        if key not in self.keys:
            raise InputError(f"{self.path}: no array {key!r}; it holds {', '.join(self.keys[:20])}{nearest(key, self.keys)}")
        what = f"{self.path}:{key}"
        with self._open() as zipped:
            info = zipped.getinfo(f"{key}.npy")
            bomb = info.file_size > FREE_RATIO_BYTES and info.file_size > MAX_RATIO * max(info.compress_size, 1)
            sizes = f"{info.compress_size:,} bytes that would unpack to {info.file_size:,}"
            require(not bomb and info.file_size <= memory_limit(), what, "an array of sane size", sizes)
            with zipped.open(info) as member:
                return _read_array(member, info.file_size, what)

    def shape(self, key: str) -> tuple[Any, ...]:
        """The shape of `key`, its data unread."""
        with self._open() as zipped, zipped.open(f"{key}.npy") as member:
            return _read_header(member, f"{self.path}:{key}")[0]

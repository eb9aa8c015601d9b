"""Named tensors as one file in the safetensors format, written without a copy and read with every size checked first.

The file is a little-endian uint64 n, n bytes of JSON {name: {dtype, shape, data_offsets}}, then the tensors' bytes, no hole.
The safetensors package reads the same bytes; ours adds limits that are checked before memory is taken, a hash over exactly the
bytes that become tensors, and writing that never holds a second copy.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likeli.checkpoint import disk
from likeli.checkpoint import strict_json as strict
from likeli.errors import CheckpointError, InputError, nearest, require

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
}  # fmt: skip
NAMES = {v: k for k, v in DTYPES.items()}
HEADER_LIMIT, COUNT_LIMIT = 1 << 20, 10_000


@dataclass(frozen=True)
class Entry:
    """One tensor's place: `data[start:end]` is its row-major bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def serialise(tensors: Mapping[str, Tensor], where: str) -> list[bytes | memoryview]:
    """The file's chunks: its header, then each tensor's own memory, widest types first so that every tensor is aligned.

    Raises:
        InputError: a type or a number of tensors that the format or its limits cannot hold.
    """
    require(len(tensors) <= COUNT_LIMIT, where, f"at most {COUNT_LIMIT} tensors", f"{len(tensors)}")
    order = sorted(tensors, key=lambda k: (-tensors[k].dtype.itemsize, k))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in order:
        t = tensors[_checked(name, where)]
        require(t.dtype in NAMES, f"{where}: {name}", f"one of {', '.join(NAMES.values())}", t.dtype)
        header[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [start, start := start + t.nbytes]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    require(len(text) <= HEADER_LIMIT, where, f"a header of at most {HEADER_LIMIT} bytes", f"{len(text)}")
    return [struct.pack("<Q", len(text)) + text, *(_memory(tensors[k]) for k in order)]


def _memory(t: Tensor) -> memoryview:
    flat = t.detach().to("cpu").contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")


def deserialise(data: bytes, where: object) -> tuple[dict[str, Entry], dict[str, Tensor]]:
    """The entries and tensors of a file's bytes, checked as those of a file; the tensors are a copy.

    Raises:
        CheckpointError: not what `serialise` writes.
    """
    n = header_size(data[:8], len(data), where)
    entries = parse_header(data[8 : 8 + n], len(data) - 8 - n, where)
    body = bytearray(data[8 + n :])
    return entries, {name: _view(body, e) for name, e in entries.items()}


def header_size(start: bytes, size: int, where: object) -> int:
    """n of the first eight bytes, checked against the file's size."""
    require(size >= 8, where, "a safetensors file", f"{size} bytes", CheckpointError)
    n = struct.unpack("<Q", start)[0]
    limit = min(HEADER_LIMIT, size - 8)
    require(n <= limit, where, f"a header of at most {limit} bytes", f"{n}", CheckpointError)
    return n


def parse_header(text: bytes, data_size: int, where: object) -> dict[str, Entry]:
    """The header's entries, which must tile the data exactly.

    Raises:
        CheckpointError: anything but strict entries that cover `data_size` bytes without overlap or hole.
    """
    header = strict.loads(text, where)
    require(isinstance(header, dict), where, "an object of tensors", type(header).__name__, CheckpointError)
    metadata = header.pop("__metadata__", {})
    plain = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    require(plain, where, "text as metadata", metadata, CheckpointError)
    require(len(header) <= COUNT_LIMIT, where, f"at most {COUNT_LIMIT} tensors", len(header), CheckpointError)
    entries = {name: _entry(value, f"{where}: {_checked(name, where)}") for name, value in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda kv: (kv[1].start, kv[1].end)):
        require(entry.start == end, f"{where}: {name}", f"data from byte {end}", f"byte {entry.start}", CheckpointError)
        end = entry.end
    require(end == data_size, where, f"{end} bytes of tensors, as declared", f"{data_size}", CheckpointError)
    return entries


def _checked(name: str, where: object) -> str:
    bad = not name.isprintable() or len(name) > 400 or any(part in ("", ".", "..") for part in name.split("/"))
    require(not bad, where, "a plain tensor name", repr(name[:80]), CheckpointError)
    return name


def _entry(value: Any, where: str) -> Entry:
    exact = isinstance(value, dict) and set(value) == {"dtype", "shape", "data_offsets"}
    require(exact, where, "dtype, shape and data_offsets", value, CheckpointError)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    require(isinstance(dtype, str) and dtype in DTYPES, where, f"a type of {', '.join(DTYPES)}", dtype, CheckpointError)
    require(_whole(shape) and len(shape) <= 16, where, "a shape of whole numbers", shape, CheckpointError)
    require(_whole(offsets) and len(offsets) == 2, where, "two offsets", offsets, CheckpointError)
    size = math.prod(shape) * DTYPES[dtype].itemsize
    require(offsets[1] - offsets[0] == size, where, f"{size} bytes for {dtype} {shape}", offsets, CheckpointError)
    return Entry(DTYPES[dtype], tuple(shape), *offsets)


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**62 for v in values)


class TensorFile:
    """An open file whose header has been read and checked; its tensors' bytes are still on the disk.

    Arguments:
        fd: open for reading until the tensors are taken.
        size: of the file.
        where: its name, for messages.
    """

    def __init__(self, fd: int, size: int, where: object) -> None:
        self.fd, self.where = fd, where
        n = header_size(self._read(0, min(8, size)), size, where)
        self._start = self._read(0, 8 + n)
        self.data_size = size - 8 - n
        self.entries = parse_header(self._start[8:], self.data_size, where)

    def tensors(self, sha256: str) -> dict[str, Tensor]:
        """Read the rest, check the hash of all that was read, and give views of these very bytes."""
        data = bytearray(self.data_size)
        disk.read_into(self.fd, memoryview(data), len(self._start), self.where)
        digest = hashlib.sha256(self._start)
        digest.update(data)
        found = digest.hexdigest()
        require(found == sha256, self.where, f"sha256 {sha256[:12]}… as in manifest.json", found[:12], CheckpointError)
        return {name: _view(data, e) for name, e in self.entries.items()}

    def _read(self, offset: int, count: int) -> bytes:
        data = bytearray(count)
        disk.read_into(self.fd, memoryview(data), offset, self.where)
        return bytes(data)


def _view(data: bytearray, e: Entry) -> Tensor:
    if e.start == e.end:
        return torch.empty(e.shape, dtype=e.dtype)
    return torch.frombuffer(data, dtype=e.dtype, count=math.prod(e.shape), offset=e.start).reshape(e.shape)


def check_entries(entries: Mapping[str, Entry], state: Mapping[str, Tensor], where: object) -> None:
    """Names, shapes and types of a file's tensors equal those of a model's state.

    Raises:
        CheckpointError: naming the first that does not, and the nearest known name of an unknown one.
    """
    for name in entries:
        if name not in state:
            hint = f"an unknown name{nearest(name, state)}"
            require(False, f"{where}: {name}", "a tensor of the model", hint, CheckpointError)
    for name, t in state.items():
        require(name in entries, f"{where}: {name}", "the model's tensor", "nothing", CheckpointError)
        found, expected = (NAMES[entries[name].dtype], entries[name].shape), (NAMES.get(t.dtype), tuple(t.shape))
        require(found == expected, f"{where}: {name}", f"{expected}", f"{found}", CheckpointError)


def non_finite(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    for name, t in tensors.items():
        if (t.is_floating_point() or t.is_complex()) and not bool(t.to(_testable(t.dtype)).isfinite().all()):
            yield name


def _testable(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize == 1 else dtype


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise the `InputError` that names the first tensor with a NaN or an infinity: it could never be loaded again."""
    bad = next(non_finite(tensors), None)
    if bad is not None:
        raise InputError(f"{where}: {bad}: expected finite weights, got NaN or infinity; nothing was saved")

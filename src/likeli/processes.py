"""Several processes that share the rows of one task, on one machine or many, by torch.distributed.

Each runs the same command on the same rows and works on a share of them.  What is summed over rows is summed over processes
(`total`); what is found for each row is put together again in the rows' order (`exchanged`); what only one may decide, such as
the time, the first decides (`first_says`).  With one process nothing of this does anything.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from likeli.errors import InputError, LikeliError, one_line, require

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun and other launchers tell a process
LAUNCHER = "LIKELI_LAUNCHER"  # pid of `likeli … --processes`, which says itself which of its processes died
JOINING, ANSWERING = timedelta(minutes=2), timedelta(minutes=10)  # to wait for the others: at the start, and at a sum
TYPES = {str(t): t for t in (torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)}
_joined: dist.Store | None = None
_silent = False


class ProcessLost(LikeliError):
    """Another process has ended, so that sums cannot be formed any more."""


def count() -> int:
    """How many processes there are."""
    return 1 if _joined is None else dist.get_world_size()


def rank() -> int:
    """The number of this one, from 0."""
    return 0 if _joined is None else dist.get_rank()


def is_first() -> bool:
    """Whether this is the one that writes files and speaks."""
    return rank() == 0


@contextmanager
def joined_by_launcher() -> Iterator[None]:
    """Inside the block the processes that a launcher (torchrun, for one) has started are one run; nothing if it started one.

    Raises:
        InputError: a host that does not resolve, a port that is taken, processes that do not come, of another version.
        ProcessLost: inside, where another process has ended.
    """
    global _joined, _silent
    if _joined is not None or os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    store, number, of = _meet()
    cuda = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", of))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=of, timeout=ANSWERING)
    _joined = store
    try:
        yield
    except BaseException as error:
        lost = _lost(error)
        _silent = not _may_tell(lost or error)
        if lost is not None:
            raise lost from error
        raise
    finally:
        _joined = None
        dist.destroy_process_group()


def _lost(error: BaseException) -> ProcessLost | None:
    """What an error inside torch.distributed means; None for another."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not any(word in text for word in ("gloo", "NCCL", "closed by peer", "Socket")):
        return None
    why = "does not answer" if "imed out" in text else "has ended"
    return ProcessLost(f"process {rank()} of {count()}: another process of the run {why}; a run that was saved can be resumed")


def _meet() -> tuple[dist.Store, int, int]:
    """Where the processes write to each other, the number of this one, and how many they are."""
    missing = [name for name in NAMES if name not in os.environ]
    require(not missing, "processes", f"{', '.join(NAMES)} from a launcher such as torchrun", f"no {', '.join(missing)}")
    number, of, host, port = (os.environ[name] for name in NAMES)
    whole = number.isdecimal() and of.isdecimal() and int(number) < int(of)
    require(whole, "RANK, WORLD_SIZE", "a whole number below another", f"{number}, {of}")
    require(port.isdecimal() and 0 < int(port) < 65536, "MASTER_PORT", "a port, 1 to 65535", port)
    try:
        socket.getaddrinfo(host, int(port))
    except OSError:
        raise InputError(f"MASTER_ADDR: expected a host that resolves, got {host!r}") from None
    try:
        return next(iter(dist.rendezvous("env://", timeout=JOINING)))
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise InputError(f"MASTER_PORT: expected a free port, got {port}, which is taken") from None
        told = f"process {number}: expected {of} processes to meet at {host}:{port} within {JOINING.seconds} s"
        raise InputError(f"{told}, got fewer") from error


def _may_tell(error: BaseException) -> bool:
    """Whether this process is the first to say why they end."""
    if isinstance(error, ProcessLost) and "has ended" in str(error) and LAUNCHER in os.environ:
        return False  # which says it
    try:
        return _joined is None or _joined.compare_set("told", "", str(rank())) == str(rank()).encode()
    except RuntimeError:  # the process that held the store has ended, and told
        return False


def is_silent() -> bool:
    """Whether another process has said why they ended, so that this one need not."""
    return _silent


def is_orphan() -> bool:
    """Whether the launcher that watched over this process has gone."""
    return LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER])


# --- shares and sums ---------------------------------------------------------------------------------------------------


def share(n: int, unit: int = 1) -> slice:
    """The rows of n that are this process's: neighbours, whole units of them, as many as the others have or one unit more."""
    units, mine = -(-n // unit), rank()
    first, after = (units * i // count() * unit for i in (mine, mine + 1))
    return slice(min(first, n), min(after, n))


def total(*parts: Tensor) -> tuple[Tensor, ...]:
    """Each summed over processes, in float64; the same to the bit in all of them."""
    if count() == 1:
        return parts
    flat = torch.cat([p.detach().double().flatten() for p in parts])
    dist.all_reduce(flat)
    return tuple(s.view(p.shape).to(p.dtype) for s, p in zip(flat.split([p.numel() for p in parts]), parts))


def mean_over_batch(values: Tensor) -> Tensor:
    """Σ_b v_b / B over the rows of all processes, (…), of values (rows, …); with a gradient only where there is one process."""
    if count() == 1:
        return values.mean(0)
    summed, rows = total(values.sum(0), torch.tensor(len(values), device=values.device))
    return summed / rows


def largest(values: Tensor) -> Tensor:
    """The largest over processes, entry by entry."""
    if count() == 1:
        return values
    held = values.clone()
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return held


def first_says(value: float) -> float:
    """The first process's."""
    if count() == 1:
        return value
    held = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(held, 0)
    return held.item()


def exchanged(plain: Any, tensors: Mapping[str, Tensor]) -> list[tuple[Any, dict[str, Tensor]]]:
    """What every process gave, in their order: a JSON value, and tensors by name, every bit kept (on the CPU)."""
    if count() == 1:
        return [(plain, dict(tensors))]
    held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    head = json.dumps([plain, {name: [str(t.dtype), list(t.shape)] for name, t in held.items()}]).encode()
    mine = [torch.frombuffer(bytearray(head), dtype=torch.uint8), *(t.flatten().view(torch.uint8) for t in held.values())]
    sizes = [torch.zeros(2, dtype=torch.int64) for _ in range(count())]
    dist.all_gather(sizes, torch.tensor([len(head), sum(map(len, mine))]))
    room = max(int(size[1]) for size in sizes)
    packed = torch.cat([*mine, torch.zeros(room - sum(map(len, mine)), dtype=torch.uint8)])
    found = [torch.empty(room, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(found, packed)
    return [_unpacked(data, int(size[0])) for data, size in zip(found, sizes)]


def _unpacked(data: Tensor, head: int) -> tuple[Any, dict[str, Tensor]]:
    plain, kinds = json.loads(data[:head].numpy().tobytes())
    found, at = {}, head
    for name, (dtype, shape) in kinds.items():
        empty = torch.empty(shape, dtype=TYPES[dtype])
        size = empty.numel() * empty.element_size()
        empty.flatten().view(torch.uint8).copy_(data[at : at + size])
        found[name], at = empty, at + size
    return plain, found


def agree(said: Mapping[str, Any]) -> None:
    """Go on only if every process says the same.

    Raises:
        InputError: the first name of which two say different things, in all of them; of what has parts, the part.
    """
    (first, _), *others = exchanged(dict(said), {})
    for number, (theirs, _) in enumerate(others, 1):
        for name, value in first.items():
            part, wanted, got = differing(name, value, theirs.get(name))
            told = f"{one_line(str(got), 120)} in process {number}"
            require_together(wanted == got, part, f"{one_line(str(wanted), 120)} in every process, as in process 0", told)


def require_together(condition: bool, argument: str, expected: str, got: str) -> None:
    """`require` of what is the same in every process: all of them refuse, and the first says it, wherever the others write.

    Raises:
        InputError: unless `condition` holds.
    """
    if not condition and _joined is not None:
        if is_first():
            _joined.compare_set("told", "", "0")
        first_says(0)  # none goes on to its error before that
    require(condition, argument, expected, got)


def differing(name: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    """The first part in which two descriptions differ, by its dotted name, and what either says of it."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            if ours.get(key) != theirs.get(key):
                return differing(f"{name}.{key}", ours.get(key), theirs.get(key))
    return name, ours, theirs

"""Refuse what cannot fit before asking the system for it."""

from __future__ import annotations

import resource
from pathlib import Path

from likeli.errors import LikeliError


def available() -> int:
    """Bytes that this process may still take: the least of free memory, the control group's limit and `ulimit -v`."""
    limits = [_free(), _group()]
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        limits.append(max(soft - _own(), 0))
    return min(limits)


def check_fits(needed: float, what: str) -> None:
    """Refuse `needed` bytes that are not there.

    Raises:
        LikeliError: names both numbers.
    """
    there = available()
    if needed > there:
        raise LikeliError(f"{what} needs {size(needed)} of memory, and {size(there)} can be had")


def size(count: float) -> str:
    """1500000 → `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""


def _free() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def _group() -> int:
    limit = next(iter(_lines("/sys/fs/cgroup/memory.max")), "max").strip()
    used = next(iter(_lines("/sys/fs/cgroup/memory.current")), "0").strip()
    cached = sum(int(line.split()[1]) for line in _lines("/sys/fs/cgroup/memory.stat") if line.startswith("inactive_file "))
    return max(int(limit) - int(used) + cached, 0) if limit.isdigit() and used.isdigit() else 1 << 62


def _own() -> int:
    pages = next(iter(_lines("/proc/self/statm")), "0").split()[0]
    return int(pages) * resource.getpagesize()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

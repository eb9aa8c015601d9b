import os
from contextlib import contextmanager

import pytest
from tiny_models import CLASSES, TinyFlow, fill

from likeli import config
from likeli.checkpoint import disk
from likeli.spaces import Real


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for name, cls in CLASSES.items():
        monkeypatch.setitem(config._CLASSES, name, cls)


@pytest.fixture
def model():
    return fill(TinyFlow(Real((2,), mean=(1.5, -1e-300), scale=0.1, names=("a|b", "<script>"))))


class BrokenOs:
    """The os module, whose k-th call that touches files asks `fault(name, k)` what to do: None, or an errno to raise."""

    # a recorded call is [name, *arguments, result], in the order of calling
    CALLS = frozenset(
        ("open", "write", "fsync", "close", "mkdir", "rename", "unlink", "rmdir", "listdir", "scandir", "stat", "lstat")
        + ("fstat", "ftruncate", "pread", "preadv")
    )

    def __init__(self, fault):
        self.fault, self.log = fault, []

    def __getattr__(self, name):
        real = getattr(os, name)
        return self._wrap(name, real) if name in self.CALLS else real

    def _wrap(self, name, real):
        def call(*args, **kwargs):
            self.log.append([name, *args])
            code = self.fault(name, len(self.log) - 1)
            if code is None:
                result = real(*args, **kwargs)
                self.log[-1].append(result)
                return result
            if name == "close":
                real(*args)  # a close that fails still closes
            raise OSError(code, os.strerror(code), str(args[0]))

        return call


@pytest.fixture
def broken_os(monkeypatch):
    @contextmanager
    def use(fault):
        broken = BrokenOs(fault)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "os", broken)
            yield broken

    return use

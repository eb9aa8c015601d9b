"""Disks that fail and processes that die: at every file call, and at random instants."""

import errno
import os
import random
import shutil
import signal
import struct
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import torch
from tiny_models import TinyFlow, fill, same

from likeli import checkpoint as ck
from likeli.checkpoint import disk
from likeli.checkpoint import disk as locking
from likeli.errors import LikeliError
from likeli.spaces import Real
from torture import SHARE, times


@pytest.fixture
def memory(tmp_path):
    """A folder where fsync costs nothing, if there is one: what these tests check does not depend on the disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def start(run):
    """A run with two generations, a history, and the third on its way."""
    with ck.lock(run):
        for step in (1, 2):
            ck.append_history(run, {"step": step})
            ck.save(made(step), run, state={"step": step}, state_tensors={"m": torch.full((3,), float(step))})
    return run


def made(step):
    return fill(TinyFlow(Real((2,))), step)


def save_next(run):
    with ck.lock(run):
        ck.append_history(run, {"step": 3})
        ck.save(made(3), run, state={"step": 3}, state_tensors={"m": torch.full((3,), 3.0)})


def save_over(run):
    ck.prepare_folder(run, overwrite=True)
    with ck.lock(run):
        ck.append_history(run, {"step": 3})
        ck.save(made(3), run, state={"step": 3})


def resume(run):
    ck.prepare_folder(run, resume=True)
    with ck.lock(run):
        ck.truncate_history(run, 1)


OPERATIONS = {"save": save_next, "overwrite": save_over, "resume": resume}


def check_loads(run, steps=(2, 3)):
    """What loads is one whole generation; gives its step."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = ck.read(run)
    assert got.step in steps
    assert same(got.model.state_dict(), made(got.step).state_dict())
    assert got.state == {"step": got.step}
    return got.step


def temporaries(run):
    return [p for p in run.rglob("*") if p.name.startswith(".") and p.name != ".lock"]


def check_recovers(run):
    """The next start leaves nothing behind, and the run goes on."""
    assert len(temporaries(run)) <= 1
    step = check_loads(run)
    assert ck.prepare_folder(run, resume=True)
    assert not temporaries(run)
    assert not list(run.glob("history.after*"))
    assert check_loads(run) == step
    with ck.lock(run):
        ck.append_history(run, {"step": 4})
        ck.save(made(4), run, state={"step": 4})
    assert check_loads(run, (4,)) == 4
    rows = [row["step"] for row in ck.read_history(run)]
    assert rows in ([1, 2, 4], [1, 2, 3, 4], [3, 4], [1, 4])
    assert rows[0] == 3 or 3 not in rows or step == 3 or rows == [1, 2, 3, 4]
    assert sorted(os.listdir(run)) == [".lock", "checkpoints", "history.jsonl"]


def runs(memory, operation, broken_os, step=1):
    """A fresh run for each of the operation's file calls, and the call's number."""
    start(memory / "first")
    shutil.copytree(memory / "first", memory / "counted")
    with broken_os(lambda name, k: None) as calls:
        operation(memory / "counted")
    for k in range(0, len(calls.log), step):
        shutil.copytree(memory / "first", memory / f"{k}")
        yield memory / f"{k}", k
        shutil.rmtree(memory / f"{k}")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow)])
def test_every_call_that_fails_is_one_error_and_costs_nothing(memory, broken_os, operation, code, record_property):
    swallowed = []
    for run, k in runs(memory, OPERATIONS[operation], broken_os, step=1 if code == errno.EIO else 2):
        with broken_os(lambda name, j: code if j == k else None) as calls:
            try:
                OPERATIONS[operation](run)
            except LikeliError as error:
                assert os.strerror(code) in str(error)
                assert f"/{k}" in str(error)
                assert str(error).isprintable()
            else:
                swallowed.append(calls.log[k])
        check_recovers(run)
    record_property("figure", f"{operation}: each of {k + 1} file calls failed with {os.strerror(code)}: nothing is lost")
    # losing the close of a file that was only read, or what a lock that the kernel lets go says of its owner, loses nothing
    assert {call[0] for call in swallowed} <= {"close", "ftruncate"}
    assert sum(call[0] == "ftruncate" for call in swallowed) <= 2  # a lock to prepare and a lock to write


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_disk_that_stays_full_costs_nothing(memory, broken_os, operation):
    for run, k in runs(memory, OPERATIONS[operation], broken_os, step=3):
        with broken_os(lambda name, j: errno.ENOSPC if j >= k and name in ("write", "mkdir", "fsync") else None) as calls:
            try:
                OPERATIONS[operation](run)
            except LikeliError as error:
                assert os.strerror(errno.ENOSPC) in str(error)
            else:
                assert not any(call[0] in ("write", "mkdir", "fsync") for call in calls.log[k:])
        check_recovers(run)


@pytest.mark.parametrize(
    "operation", ["save", *(pytest.param(name, marks=pytest.mark.slow) for name in ("overwrite", "resume"))]
)
def test_killed_before_calls(memory, broken_os, operation, record_property):
    for run, k in runs(memory, OPERATIONS[operation], broken_os, step=1 if SHARE else 2):
        child = os.fork()
        if child == 0:
            try:
                with broken_os(lambda name, j: os.kill(os.getpid(), signal.SIGKILL) if j == k else None):
                    OPERATIONS[operation](run)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        check_recovers(run)
    record_property("figure", f"{operation}: killed before file calls up to number {k + 1}: nothing is lost")


def test_interrupted_at_every_call_cleans_up(memory, broken_os):
    def interrupt(k):
        def fault(name, j):
            if j == k:
                raise KeyboardInterrupt

        return fault

    for run, k in runs(memory, save_next, broken_os, step=3):
        with broken_os(interrupt(k)), pytest.raises(KeyboardInterrupt):
            save_next(run)
        assert not locking.held(run)
        check_recovers(run)


def test_short_writes_are_continued(tmp_path, monkeypatch, model):
    class Slow:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, fd, data):
            return os.write(fd, data[: max(1, len(data) // 3)])

        def preadv(self, fd, buffers, offset):
            return os.preadv(fd, [buffers[0][: max(1, len(buffers[0]) // 3)]], offset)

    monkeypatch.setattr(disk, "os", Slow())
    ck.save(model, tmp_path / "x")
    assert same(ck.load(tmp_path / "x").state_dict(), model.state_dict())


def test_order_of_system_calls(tmp_path, broken_os):
    """write, fsync file, close; fsync folder; rename; fsync the parent: each before the next, and the history before all."""
    run = start(tmp_path / "x")
    with broken_os(lambda name, k: None) as calls:
        save_next(run)
    opened, events = {}, []
    for name, *rest in calls.log:
        if name == "open":
            opened[rest[-1]] = str(rest[0]).removeprefix(str(run))
        elif name in ("write", "fsync", "close"):
            events.append((name, opened[rest[0]]))
        elif name == "rename":
            events.append(("rename", str(rest[1]).removeprefix(str(run))))
    rename = events.index(("rename", "/checkpoints/00000003"))
    files = ["config.json", "model.safetensors", "README.md", "train_state.json", "train_state.safetensors", "manifest.json"]
    for file in files:
        path = f"/checkpoints/.partial/{file}"
        last_write = max(i for i, e in enumerate(events) if e == ("write", path))
        assert last_write < events.index(("fsync", path)) < events.index(("close", path)) < rename
    assert events.index(("fsync", "/history.jsonl")) < rename
    closed = max(
        i for i, e in enumerate(events) if e[0] == "close" and e[1].startswith("/checkpoints/.partial/") and i < rename
    )
    assert closed < events.index(("fsync", "/checkpoints/.partial")) < rename
    assert ("fsync", "/checkpoints") in events[rename:]
    removed = events.index(("rename", "/checkpoints/.partial"))
    assert ("fsync", "/checkpoints") in events[rename:removed]


def keep_saving(run, pipe):
    """Resume, and save one step after the other until killed; a step is told when `save` has returned."""
    ck.prepare_folder(run, resume=True)
    with ck.lock(run):
        step = ck.read(run).step
        ck.truncate_history(run, step)
        os.write(pipe, struct.pack("<q", step))
        while True:
            step += 1
            ck.append_history(run, {"step": step, "loss": 1 / step})
            ck.save(made(step), run, state={"step": step}, state_tensors={"m": torch.full((3,), float(step))})
            os.write(pipe, struct.pack("<q", step))


def kill_at_random(run, rng, span):
    """Let a child save for a random while and kill it; gives the last step that it said was saved."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            keep_saving(run, write)
        finally:
            os._exit(1)
    os.close(write)
    told = os.read(read, 8)
    time.sleep(rng.uniform(0, span))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with open(read, "rb") as f:
        told += f.read()
    return struct.unpack("<q", told[-8:])[0]


def kills(run, count):
    rng, saved, inside = random.Random(1), 0, 0
    begin = time.monotonic()
    ck.save(made(0), run, state={"step": 0})
    span = 4 * (time.monotonic() - begin)
    for _ in range(count):
        saved = kill_at_random(run, rng, span)
        inside += len(temporaries(run))
        assert len(temporaries(run)) <= 1
        saved = check_loads(run, (saved, saved + 1))
        rows = ck.read_history(run)
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) >= saved
    assert saved > count // 4  # on average two saves before each kill, if the machine has nothing else to do
    assert inside  # some kills fell into the middle of a save
    assert ck.prepare_folder(run, resume=True)
    assert not temporaries(run)
    return saved


def test_fifty_kills_at_random_instants(memory):
    kills(memory / "x", 50)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_kills_at_random_instants(tmp_path, record_property):
    saved = kills(tmp_path / "x", times(1000, 10_000))
    record_property("figure", f"{times(1000, 10_000)} kills while {saved} checkpoints were saved: each one loads")


def test_flat_folder_is_whole_or_not_there(tmp_path, broken_os):
    with broken_os(lambda name, k: None) as calls:
        ck.save_pretrained(made(1), tmp_path / "whole")
    for k in range(len(calls.log)):
        with broken_os(lambda name, j: errno.EIO if j == k else None), pytest.raises(LikeliError, match=os.strerror(errno.EIO)):
            ck.save_pretrained(made(1), tmp_path / "a" / f"{k}")
        if (tmp_path / "a" / f"{k}").exists() and os.listdir(tmp_path / "a" / f"{k}"):
            assert same(ck.load(tmp_path / "a" / f"{k}").state_dict(), made(1).state_dict())
        else:
            ck.save_pretrained(made(1), tmp_path / "a" / f"{k}")
    assert not [p for p in Path(tmp_path / "a").iterdir() if p.name.startswith(".")]

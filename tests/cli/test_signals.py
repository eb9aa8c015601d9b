"""A signal ends a command in one line, with the shell's code, whatever the command is in the middle of."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from likeli.cli import app, main
from likeli.cli.ending import GRACE

TERM, INT = signal.SIGTERM, signal.SIGINT
BOTH = pytest.mark.parametrize("number", [TERM, INT])
SLOW_MACHINE = 10.0  # times the two seconds of a quiet one, where others work too


def stopped(words, number, seconds, where, program=("-m", "likeli")):
    """Start a process, send it a signal so long after it has a handler for it; exit code, what it said, how long it took."""
    heeded = partial(signal.signal, number, signal.SIG_DFL)  # a suite in the background ignores SIGINT, and its children would
    process = subprocess.Popen([sys.executable, *program, *words], cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, preexec_fn=heeded)  # fmt: skip
    deadline = time.monotonic() + 60
    while not _handles(process.pid, number):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(seconds)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.monotonic() - began


def _handles(pid, number):
    """Whether the process has a handler of its own for the signal."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        begun = "python" in file.read()
    return begun and bool(mask >> (TERM - 1) & 1)  # Python itself has one for SIGINT from its first instant


@BOTH
@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_the_imports_end_in_one_line(tmp_path, number, seconds):
    code, out, err, took = stopped(["list", "--data"], number, 0.0, tmp_path) if not seconds else stopped(
        ["fit", "digits", "--model", "vae", "--out", "x"], number, seconds, tmp_path
    )
    assert code == 128 + number
    assert err.splitlines()[-1].startswith(f"likeli: stopped by {signal.Signals(number).name}")
    assert len(err.splitlines()) == 1 and out == ""
    assert took < 2 * SLOW_MACHINE


SWALLOWS = """
import sys, time
from pathlib import Path
from likeli.cli.ending import ended_by_signals
from likeli.cli.output import new_file
with ended_by_signals(sys.argv), new_file("rows.csv", overwrite=False) as path:
    path.write_text("half")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


@BOTH
def test_a_library_that_swallows_the_signal_is_ended_all_the_same(tmp_path, number):
    code, out, err, took = stopped(["--json"], number, 0.3, tmp_path, ("-c", SWALLOWS))
    assert (code, err) == (128 + number, f"likeli: stopped by {signal.Signals(number).name}\n")
    assert f'"exit_code": {128 + number}' in out
    assert GRACE * 0.9 < took < 2 * SLOW_MACHINE
    assert list(tmp_path.iterdir()) == []  # what was half written is gone


@BOTH
def test_what_a_library_makes_of_a_signal_is_not_told(monkeypatch, capsys, number):
    """C code that imports reports an interrupt as an import that failed."""
    def run(argv):
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import") from None

    outside = signal.signal(number, signal.SIG_DFL)  # ignored, where the suite itself runs in the background
    try:
        monkeypatch.setattr(app, "_run", run)
        assert main(["list"]) == 128 + number
        assert capsys.readouterr().err == f"likeli: stopped by {signal.Signals(number).name}\n"
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)


def test_a_signal_that_is_ignored_stays_so(monkeypatch):
    before = signal.signal(INT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(app, "_run", lambda argv: os.kill(os.getpid(), INT) or 0)
        assert main(["list"]) == 0
    finally:
        signal.signal(INT, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run in it, of a diffusion that takes its time."""
    folder = tmp_path_factory.mktemp("signals")
    words = ["--model", "vdm", "--model.hidden", "8", "--steps", "2", "--quiet", "--out", str(folder / "run")]
    assert main(["fit", "digits", *words]) == 0
    return folder


LONG = {
    "evaluate": ["evaluate", "run", "--likelihood.samples", "9999"],
    "score": ["score", "run", "digits", "--likelihood.samples", "9999", "--out", "scores.csv"],
    "sample": ["sample", "run", "-n", "9999", "--out", "rows.npy"],
    "doctor": ["doctor", "run", "--rows", "9999"],
    "compare": ["compare", "digits", "--models", "gmm,vae,flow", "--minutes", "9", "--out", "all", "--overwrite"],
    "demo": ["demo", "--minutes", "9", "--out", "demo", "--overwrite"],
}


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.0, 9.0])
@pytest.mark.parametrize("verb", LONG)
def test_every_long_command_ends_in_two_seconds(place, verb, seconds, number):
    code, _, err, took = stopped(LONG[verb], number, seconds, place)
    assert code == 128 + number, err
    assert f"stopped by {signal.Signals(number).name}" in err.splitlines()[-1]
    assert "Traceback" not in err and "existing folder" not in err
    assert took < 2 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), f"{took:.2f} s"
    assert not [p for p in place.iterdir() if "partial" in p.name or p.name in ("rows.npy", "scores.csv")]

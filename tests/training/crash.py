"""A warm process that forks training runs, kills them, and resumes them; run as a script, it prints what it saw as JSON.

    python crash.py COUNT SEED FOLDER KIND:SIGNAL ...
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from probes import MixtureProbe, Rows, noisy, rows

from likeli.checkpoint import read, read_history
from likeli.errors import Interrupted, LikeliError
from likeli.models import GMM, VAE
from likeli.models.vae import CoderBackbone
from likeli.spaces import Real
from likeli.training import fit

STEPS = 40
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def model(kind):
    """An untrained model, the same every time."""
    torch.manual_seed(1)
    if kind in ("em", "gmm"):
        return MixtureProbe(Real((5,))) if kind == "em" else GMM(Real((5,)), components=4, starts=1)
    return noisy() if kind == "sgd" else VAE(Real((5,)), 2, CoderBackbone((16,)))


def train(kind, out, resume):
    """One run of the kind; everything about it is fixed."""
    options = {"steps": STEPS, "out": out, "resume": resume, "checkpoint_every": 0.0}
    if kind in ("em", "gmm"):
        return fit(model(kind), Rows(rows()), **options)
    options |= {"batch": 16, "validate_every": 7, "log_every": 1, "ema": 0.9, "clip": 2.0, "weight_decay": 0.01}
    return fit(model(kind), Rows(rows()), **options)


def outcome(out):
    """What must not depend on kills: every logged number but the clock, to the bit, and the weights."""
    names = ("step", "loss", "valid", "lr", "gradient")
    history = [[float(row[k]).hex() if k in row else None for k in names] for row in read_history(out)]
    saved = read(out)
    weights = hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in saved.model.state_dict().values())).hexdigest()
    best, finished = saved.state["memory"].get("best"), saved.state["finished"]
    return {"history": history, "weights": weights, "best": best, "finished": finished}


def child(kind, out):
    """Fork a run that resumes whatever is in `out`; the child leaves with the error's exit code.

    Signals wait until the child can answer them: before and after `fit` they are not its to handle.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return pid
    for number in SIGNALS:
        signal.signal(number, lambda number, _: os._exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    code = 99
    try:
        train(kind, out, resume=True)
        code = 0
    except (LikeliError, Interrupted) as error:
        code = error.exit_code
    finally:
        os._exit(code)


def hunt(kind, number, count, seed, folder):
    """Send `count` signals to runs at random instants, resume until each is finished, compare each with an unharmed run."""
    folder.mkdir()
    train(kind, folder / "straight", resume=False)
    expected = outcome(folder / "straight")
    began = time.perf_counter()
    os.waitpid(child(kind, folder / "timed"), 0)
    length = time.perf_counter() - began
    assert outcome(folder / "timed") == expected
    generator, sent, runs, codes, slowest = random.Random(seed), 0, 0, [], 0.0
    while sent < count:
        out, left = folder / f"run{runs}", 1
        while left:
            pid = child(kind, out)
            time.sleep(generator.uniform(0, 1.1 * length))
            os.kill(pid, number)
            at = time.perf_counter()
            _, status = os.waitpid(pid, 0)
            slowest = max(slowest, time.perf_counter() - at)
            left = os.waitstatus_to_exitcode(status)
            codes.append(left)
            sent += left != 0
        assert outcome(out) == expected, out
        runs += 1
    return {"sent": sent, "runs": runs, "codes": sorted(set(codes)), "slowest": slowest, "length": length}


if __name__ == "__main__":
    torch.set_num_threads(1)
    count, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    report = {}
    for job in sys.argv[4:]:
        kind, name = job.split(":")
        report[job] = hunt(kind, getattr(signal, name), count, seed, folder / job)
    print(json.dumps(report))

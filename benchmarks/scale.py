"""Two processes that share a batch, on a core each, against two that know nothing of each other, in the same minute.

Rows a second of both processes together: training a VAE and a U-Net, and scoring by a VAE.  `process` gives each of the two
that share as many rows of a step as each of the others has; `global` shares that one batch, so that each has half of it and the
losses are those of one process.  A ratio of 1 would be sharing that costs nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

METRIC, HIGHER, OWN_PEER = "rows_per_second", True, True
VARIANTS = [{"work": w, "batch": b} for w in ("vae", "unet") for b in ("process", "global")]
VARIANTS += [{"work": "score", "batch": "process"}]
SIZES = {"vae": (128, 1500), "unet": (32, 24), "score": (256, 16)}  # rows of a batch, and how many of them
WARM = 4  # batches before the clock starts


def prepare(folder, data):
    """Nothing: the rows are noise."""


def ours(folder, work, batch):
    return both(work, SIZES[work][0] * (2 if batch == "process" else 1), shared=True)


def peer(folder, work, batch):
    return both(work, SIZES[work][0], shared=False)


def both(work, batch, shared):
    """Rows a second of two processes, one on each of two cores."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    started = []
    for i in range(2):
        env = os.environ | ({**meet, "RANK": str(i)} if shared else {})
        words = [sys.executable, str(Path(__file__).resolve()), work, str(batch), str(i)]
        started.append(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True))
    rates = [float(process.communicate()[0].strip()) for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{work}: a process failed")
    return {"rows_per_second": min(rates) if shared else sum(rates)}


def rate(work, batch):
    """Rows a second of this process, or of all that share its batches."""
    import time

    import torch

    import likeli
    from likeli.evaluation.likelihood import score

    torch.manual_seed(0)
    side, count = (28 if work == "unet" else 8), SIZES[work][1]
    space = likeli.Pixels((side, side), 17)
    x = torch.randint(17, (batch * (count if work == "score" else 4), side, side))
    if work == "score":
        model, seconds = likeli.VAE(space).eval(), []
        begin = time.perf_counter()
        for _ in score(model, x, batch=256):
            seconds.append(time.perf_counter() - begin)
        return (len(seconds) - WARM) / (seconds[-1] - seconds[WARM - 1]) * len(x) / len(seconds)
    backbone = likeli.DenoiserBackbone(network="unet", hidden=(32, 64))
    model = likeli.VAE(space) if work == "vae" else likeli.DDPM(space, backbone=backbone)
    rows = likeli.fit(model, x, steps=count, batch=batch, log_every=1, progress=False).rows
    return batch * (count - WARM) / (rows[-1]["seconds"] - rows[WARM - 1]["seconds"])


if __name__ == "__main__":
    cores = sorted(range(os.cpu_count() or 1))
    os.sched_setaffinity(0, {cores[int(sys.argv[3]) % len(cores)]})
    from likeli import processes

    with processes.joined_by_launcher():
        print(rate(sys.argv[1], int(sys.argv[2])))

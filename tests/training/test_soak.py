"""Fit, sample and score again and again in one process: no memory, file or thread is left behind."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import likeli
from torture import times

CALLS = times(300, 5000)
NOISE = 4 << 20  # bytes that an allocator takes and gives back as it likes


def resident():
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def work(data, i):
    for model in (likeli.GMM(data.space, 2), likeli.VAE(data.space, latent_dim=1)):
        likeli.fit(model, data, steps=2, seed=i, progress=False)
        model.sample(4, seed=i)
        model.log_likelihood(data.x[:8])


@pytest.mark.slow
@pytest.mark.timeout(60 + CALLS)
def test_repeated_work_leaves_nothing_behind(record_property):
    """By the slope of a line through the last four fifths: under 1 KiB a call, beside what 4 MiB of noise make of it."""
    torch.set_num_threads(1)
    data, seen = likeli.load_data("gaussian:n=100"), []
    for i in range(CALLS):
        work(data, i)
        if i == CALLS // 5:
            files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        seen.append(resident())
    after = np.array(seen[CALLS // 5 :])
    slope = np.polyfit(np.arange(len(after)), after, 1)[0]
    record_property("figure", f"{CALLS} times two fits, samples and scores: {slope:.0f} bytes of memory a call")
    assert slope < 1024 + NOISE / len(after)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (files, threads)

"""Tiny Shakespeare in 1,200 CPU seconds of one core: bits per character of a transformer of 0.8 million parameters.

The last tenth, in windows of 256 that do not overlap; every character counts once, a window's first too, predicted from
nothing.  The peer is a Witten-Bell 5-gram counted on the first nine tenths, which reads the last tenth as one text.
"""

import math
import time
from collections import Counter, defaultdict

import numpy as np

METRIC, HIGHER = "bits_per_character", False
VARIANTS = [{"seconds": 1200}]
CONTEXT, STRIDE, HIDDEN, ORDER, CALIBRATION, MARGIN = 256, 31, (128,) * 4, 5, 20, 0.97
TRAINING = {"batch": 16, "lr": 6e-3, "ema": 0.998, "betas": (0.9, 0.99), "precision": "bf16-mixed"}


def prepare(folder, data):
    text = (data / "shakespeare.txt").read_text(encoding="utf-8")
    codes = {c: i for i, c in enumerate(sorted(set(text)))}
    x, cut = np.array([codes[c] for c in text]), len(text) * 9 // 10
    np.savez(folder / "text.npz", train=x[:cut], test=x[cut:], symbols=len(codes))


def ours(folder, seconds):
    import torch

    from likeli.evaluation.likelihood import evaluate
    from likeli.models.autoregressive import Autoregressive, CausalBackbone
    from likeli.spaces import Tokens
    from likeli.training import fit

    with np.load(folder / "text.npz") as data:
        train, test, symbols = torch.from_numpy(data["train"]), torch.from_numpy(data["test"]), int(data["symbols"])
    rows = train.unfold(0, CONTEXT, STRIDE).contiguous()

    def trained(steps):
        torch.manual_seed(0)
        model = Autoregressive(Tokens(CONTEXT, symbols), CausalBackbone("transformer", HIDDEN))
        begin = time.process_time()
        fit(model, rows, steps=steps, progress=False, **TRAINING)
        return model, time.process_time() - begin

    _, spent = trained(CALIBRATION)
    model, took = trained(math.floor(MARGIN * (seconds - spent) * CALIBRATION / spent))
    found = evaluate(model, test[: len(test) // CONTEXT * CONTEXT].reshape(-1, CONTEXT))
    parameters = sum(p.numel() for p in model.parameters())
    return {"bits_per_character": found.bits_per_dim, "parameters": parameters, "cpu_seconds": spent + took}


def peer(folder, seconds):
    """p(s | h) = (count(h s) + distinct(h) p(s | h without its first)) / (count(h) + distinct(h)), uniform below all."""
    with np.load(folder / "text.npz") as data:
        train, test, symbols = data["train"].tolist(), data["test"].tolist(), int(data["symbols"])
    counts = defaultdict(Counter)
    for i, symbol in enumerate(train):
        for n in range(min(ORDER, i + 1)):
            counts[tuple(train[i - n : i])][symbol] += 1
    totals = {h: (sum(c.values()), len(c)) for h, c in counts.items()}
    bits = 0.0
    for i, symbol in enumerate(test):
        p = 1 / symbols
        for n in range(min(ORDER, i + 1)):
            h = tuple(test[i - n : i])
            if h in totals:
                total, distinct = totals[h]
                p = (counts[h][symbol] + distinct * p) / (total + distinct)
        bits -= math.log2(p)
    return {"bits_per_character": bits / len(test), "parameters": 0, "cpu_seconds": 0.0}

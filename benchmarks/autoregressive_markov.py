"""An order-2 Markov source of 8 symbols, length 64: bits per symbol of a transformer above the source's own, on the same rows.

The peer is the source itself, which nothing can beat on average; the difference is taken row by row.
"""

import math
import time

import numpy as np

METRIC, HIGHER = "bits_per_symbol", False
VARIANTS = [{"steps": 1200}]
SYMBOLS, LENGTH, TRAIN, TEST = 8, 64, 200_000, 20_000
TRAINING = {"batch": 128, "lr": 5e-3, "precision": "bf16-mixed"}


def prepare(folder, data):
    """P(x_t | x_t−2, x_t−1) ∝ squared exponential variables, so that rows are uneven; the first two symbols are uniform."""
    rng = np.random.default_rng(0)
    p = rng.exponential(size=(SYMBOLS,) * 3) ** 2
    p /= p.sum(-1, keepdims=True)
    x = rng.integers(SYMBOLS, size=(TRAIN + TEST, LENGTH))
    log_p = np.full(len(x), -2 * math.log(SYMBOLS))
    for t in range(2, LENGTH):
        q = p[x[:, t - 2], x[:, t - 1]]
        x[:, t] = (q.cumsum(1) < rng.random((len(x), 1))).sum(1).clip(max=SYMBOLS - 1)
        log_p += np.log(q[np.arange(len(x)), x[:, t]])
    np.savez(folder / "rows.npz", train=x[:TRAIN], test=x[TRAIN:], log_p=log_p[TRAIN:])


def ours(folder, steps):
    import torch

    from likeli.models.autoregressive import Autoregressive, CausalBackbone
    from likeli.spaces import Tokens
    from likeli.training import fit

    with np.load(folder / "rows.npz") as data:
        train, test, log_p = (torch.from_numpy(data[part]) for part in ("train", "test", "log_p"))
    torch.manual_seed(0)
    model, begin = Autoregressive(Tokens(LENGTH, SYMBOLS), CausalBackbone("transformer", (64, 64))), time.process_time()
    fit(model, train, steps=steps, progress=False, **TRAINING)
    spent = time.process_time() - begin
    log_q = torch.cat([model.log_likelihood(rows).value.double() for rows in test.split(1024)])
    bits = 1 / (LENGTH * math.log(2))
    excess = (log_p - log_q) * bits
    return {
        "bits_per_symbol": -log_q.mean().item() * bits,
        "excess": excess.mean().item(),
        "excess_stderr": excess.std().item() / math.sqrt(len(test)),
        "cpu_seconds": spent,
    }


def peer(folder, steps):
    with np.load(folder / "rows.npz") as data:
        bits = -data["log_p"].mean() / (LENGTH * math.log(2))
    return {"bits_per_symbol": float(bits), "excess": 0.0, "excess_stderr": 0.0, "cpu_seconds": 0.0}

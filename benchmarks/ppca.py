"""Probabilistic PCA, L = 16: fit and log p of every row, against scikit-learn's PCA.fit and score_samples.

scikit-learn divides by n − 1 where maximum likelihood divides by n, and averages σ² over fewer directions where rows are fewer
than cells, so its log-likelihood is lower by construction.
"""

import time

import numpy as np

METRIC = "cpu_seconds"  # of the one core both are pinned to, so that a busy machine does not count
VARIANTS = [{"rows": 100_000, "cells": 64}, {"rows": 20_000, "cells": 784}, {"rows": 2_000, "cells": 3_000}]
LATENT = 16


def prepare(folder, data):
    rng = np.random.default_rng(0)
    for variant in VARIANTS:
        n, d = variant["rows"], variant["cells"]
        x = rng.normal(size=(n, LATENT)) @ rng.normal(size=(LATENT, d)) + 0.5 * rng.normal(size=(n, d)) + rng.normal(size=d)
        np.save(folder / f"{n}x{d}.npy", x)


def ours(folder, rows, cells):
    import torch

    from likeli.models.ppca import PPCA
    from likeli.spaces import Real

    x = torch.from_numpy(np.load(folder / f"{rows}x{cells}.npy"))
    begin, cpu = time.perf_counter(), time.process_time()
    model = PPCA(Real((cells,)), LATENT)
    model.fit_closed_form(x)
    fitted = time.process_time() - cpu
    log_p = model.log_likelihood(x).value
    spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu, "cpu_seconds_fit": fitted}
    return spent | {"nats": log_p.mean().item()}


def peer(folder, rows, cells):
    from sklearn.decomposition import PCA

    x = np.load(folder / f"{rows}x{cells}.npy")
    begin, cpu = time.perf_counter(), time.process_time()
    model = PCA(LATENT, random_state=0).fit(x)
    fitted = time.process_time() - cpu
    log_p = model.score_samples(x)
    spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu, "cpu_seconds_fit": fitted}
    return spent | {"nats": float(log_p.mean())}

"""Power at level 0.05 of the panel and of its aggregated kernels, against a classifier judged on one half of the rows.

Published of MMDAgg and FUSE, n = m = 500 (Biggs, Schrab & Gretton 2023): for the mixture, the fourth mode's σ 1.8 for 1, .910
and .840; for the uniform law perturbed twice a side, d = 1 with amplitude 0.4 .880 and .825, d = 2 with 0.8 .830 and .885.
"""

import time

import numpy as np

METRIC, HIGHER = "power", True
REPEATS = 50  # standard error at most 0.07; the sides see the same sets
VARIANTS = [{"task": "mixture"}, {"task": "shift"}, {"task": "perturbed1"}, {"task": "perturbed2"}]


def prepare(folder, data):
    """Nothing: sets are drawn by their number."""


def sets(task, seed):
    """The two sets of a repeat."""
    rng = np.random.default_rng(seed)
    if task == "shift":  # by 0.4 in one of ten columns
        x, y = rng.normal(size=(2, 250, 10))
        y[:, 0] += 0.4
        return x, y
    if task == "mixture":
        return [modes(rng, s) for s in (1.0, 1.8)]
    d, amplitude = (1, 0.4) if task == "perturbed1" else (2, 0.8)
    return perturbed(rng, 500, d, amplitude), rng.uniform(size=(500, d))


def perturbed(rng, n, d, amplitude):
    """Density 1 + a Π_i b(2 x_i) on [0, 1]^d, the sign drawn for each half of each side; b is a smooth bump up and one down."""

    def bump(u):
        inside = 1 - (4 * (u % 0.5) - 1) ** 2
        return np.where(u % 1 < 0.5, 1, -1) * np.exp(1 - 1 / np.maximum(inside, 1e-9))

    sign, rows = rng.choice([-1, 1], size=(2,) * d), np.empty((0, d))
    while len(rows) < n:
        x = rng.uniform(size=(4 * n, d))
        density = 1 + amplitude * sign[tuple((2 * x).astype(int).T)] * bump(2 * x % 1).prod(1)
        rows = np.concatenate([rows, x[rng.uniform(0, 1 + amplitude, len(x)) < density]])
    return rows[:n]


def modes(rng, last):
    """500 rows of four Gaussians at ±20, the last of standard deviation `last`."""
    k = rng.integers(0, 4, 500)
    centre = 20 * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])[k]
    return centre + rng.normal(size=(500, 2)) * np.where(k == 3, last, 1.0)[:, None]


def ours(folder, task):
    from likeli.evaluation.panel import two_sample_test

    begin = time.perf_counter()
    found = [two_sample_test(*sets(task, s), seed=s) for s in range(REPEATS)]
    alone = {m.name: float(np.mean([r.members[i].p <= 0.05 for r in found])) for i, m in enumerate(found[0].members)}
    return {"seconds": time.perf_counter() - begin, "power": float(np.mean([r.differ for r in found]))} | alone


def peer(folder, task):
    from scipy import stats
    from sklearn.ensemble import HistGradientBoostingClassifier

    begin, fired = time.perf_counter(), 0
    for seed in range(REPEATS):
        x, y = sets(task, seed)
        half = len(x) // 2
        model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
        model.fit(np.concatenate([x[:half], y[:half]]), np.repeat([0, 1], half))
        a, b = (model.decision_function(v[half:]) for v in (x, y))
        fired += stats.mannwhitneyu(b, a, alternative="greater").pvalue <= 0.05
    return {"seconds": time.perf_counter() - begin, "power": float(fired / REPEATS)}

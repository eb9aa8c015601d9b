"""Outlier detection on six sets of ADBench: mean AUROC of `Outlier` with its defaults against the best of four peers.

The first half of the ordinary rows is fitted, in the file's order or shuffled; the other half and all anomalies are scored.
The peers see standardised columns.  `alarms` is the share of ordinary rows flagged at a rate of 5 %, the mean over sets, and
`inside` how many sets lie in the 99 % interval that their calibration rows allow; in the file's order rows are not
exchangeable, so that nothing is promised there.  The width and number of the default's components were chosen on these sets, in
the file's order and one shuffle (0).  Data: adbench_NAME.npz with X and y (1 for an anomaly).
"""

import time

import numpy as np

METRIC, HIGHER = "auroc", True
SETS = ("cardio", "letter", "mammography", "pendigits", "satellite", "thyroid")
VARIANTS = [{"order": "file"}, *({"order": seed} for seed in range(5))]


def prepare(folder, data):
    for name in SETS:
        (folder / f"{name}.npz").write_bytes((data / f"adbench_{name}.npz").read_bytes())


def halves(folder, name, order):
    """(rows to fit, rows to score, whether each of these is an anomaly)."""
    with np.load(folder / f"{name}.npz") as data:
        x, y = data["X"].astype(float), data["y"]
    usual = x[y == 0] if order == "file" else np.random.default_rng(order).permutation(x[y == 0])
    half = len(usual) // 2
    return usual[:half], np.concatenate([usual[half:], x[y == 1]]), np.arange(len(x) - half) >= len(usual) - half


def ours(folder, order):
    from scipy import stats
    from sklearn.metrics import roc_auc_score

    from likeli.estimator import Outlier

    begin, found, alarms, inside = time.perf_counter(), {}, [], 0
    for name in SETS:
        fitted, rows, odd = halves(folder, name, order)
        model = Outlier(random_state=0 if order == "file" else order).fit(fitted)
        found[name] = 100 * roc_auc_score(odd, -model.score_samples(rows))
        flagged, n = int((model.predict(rows[~odd]) == -1).sum()), len(model.reference_)
        k = int(model.rate_ * (n + 1) + 1e-9)
        low, high = stats.betabinom(int((~odd).sum()), k, n + 1 - k).interval(0.99)
        alarms, inside = [*alarms, flagged / (~odd).sum()], inside + (low <= flagged <= high)
    spent = {"seconds": time.perf_counter() - begin, "auroc": float(np.mean(list(found.values())))}
    return spent | {"alarms": float(np.mean(alarms)), "inside": int(inside)} | found


def peer(folder, order):
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    begin, found = time.perf_counter(), {"knn5": [], "forest": [], "lof": [], "svm": []}
    for name in SETS:
        fitted, rows, odd = halves(folder, name, order)
        scale = StandardScaler().fit(fitted)
        a, b = scale.transform(fitted), scale.transform(rows)
        seed = 0 if order == "file" else order
        scores = {
            "knn5": NearestNeighbors(n_neighbors=5).fit(a).kneighbors(b)[0][:, -1],
            "forest": -IsolationForest(random_state=seed).fit(a).score_samples(b),
            "lof": -LocalOutlierFactor(novelty=True).fit(a).score_samples(b),
            "svm": -OneClassSVM().fit(a).score_samples(b),
        }
        for method, score in scores.items():
            found[method].append(100 * roc_auc_score(odd, score))
    means = {method: float(np.mean(values)) for method, values in found.items()}
    return {"seconds": time.perf_counter() - begin, "auroc": max(means.values())} | means

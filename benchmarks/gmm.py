"""Gaussian mixture by EM, K = 50 full covariances, D = 64, n = 100,000: against scikit-learn's GaussianMixture.

`same start`: both sides run 5 iterations from one start and label the rows; `own start`: each from its own, to a gain below
1e-3 nats.  The log-likelihood of both is computed by the same formula, outside the time.
"""

import time

import numpy as np

METRIC = "cpu_seconds"  # of the one core both are pinned to, so that a busy machine does not count
VARIANTS = [{"start": "same", "iterations": 5}, {"start": "own", "iterations": 100}]
K, D, N = 50, 64, 100_000


def prepare(folder, data):
    rng = np.random.default_rng(0)
    centres, mix = 1.5 * rng.normal(size=(K, D)), rng.normal(size=(K, D, D)) / np.sqrt(D)
    labels = rng.integers(K, size=N)
    x = centres[labels] + np.einsum("nij,nj->ni", mix[labels], rng.normal(size=(N, D))) + 0.3 * rng.normal(size=(N, D))
    from sklearn.cluster import KMeans

    start = KMeans(K, n_init=1, max_iter=10, random_state=0).fit(x[:10_000])
    np.savez(folder / "data.npz", x=x, means=start.cluster_centers_, variance=start.inertia_ / 10_000 / D)


def load(folder):
    with np.load(folder / "data.npz") as data:
        return data["x"], data["means"], np.full(K, 1 / K), np.repeat(data["variance"] * np.eye(D)[None], K, 0)


def ours(folder, start, iterations):
    import torch

    from likeli.models.gmm import GMM
    from likeli.spaces import Real

    x, means, weights, covariances = load(folder)
    space, rows = Real((D,)), torch.from_numpy(x)
    begin, cpu = time.perf_counter(), time.process_time()
    if start == "same":
        model = GMM.from_parameters(space, weights, means, covariances)
        model.tol, model.max_iter = 0.0, iterations
    else:
        model = GMM(space, K, max_iter=iterations)
    trace = list(model.em(rows, start=start != "same"))
    model.responsibilities(rows).argmax(1)
    spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
    return spent | {"iterations": len(trace), "nats": model.log_likelihood(rows).value.mean().item()}


def peer(folder, start, iterations):
    from sklearn.mixture import GaussianMixture

    x, means, weights, covariances = load(folder)
    begin, cpu = time.perf_counter(), time.process_time()
    given = {"weights_init": weights, "means_init": means, "precisions_init": np.linalg.inv(covariances), "tol": 0.0}
    model = GaussianMixture(K, max_iter=iterations, random_state=0, **given if start == "same" else {}).fit(x)
    spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
    return spent | {"iterations": model.n_iter_, "nats": float(model.score(x))}

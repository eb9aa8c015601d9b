"""A generator of many modes, at the step kept by the test of its samples and at the last, against a mixture of as many normals.

Ring: eight normals of standard deviation 0.02 on a circle of radius 2.  Grid: twenty-five of 0.05, two apart.  2,500 samples;
one within three standard deviations of a mode's mean is of high quality (98.9 % of the truth is), and a mode that 1 % of the
samples are near to counts.  Digit pairs: two digits of 8×8 cells as the two channels of an image, 100 modes, judged by a
classifier of single digits that is trained in the run; `kl` is that of the pairs' frequencies to equal ones, `floor` what as
many pairs of test digits give, and the quality exp(−kl), the effective share of the modes.  The peer is scikit-learn's mixture,
which knows how many modes there are.
"""

import time

import numpy as np

METRIC, HIGHER = "quality", True
VARIANTS = [{"task": "ring"}, {"task": "grid"}, {"task": "digit_pairs"}]
SAMPLES, PAIRS = 2500, 10_000
PLANES = {
    "ring": {"steps": 8000, "sd": 0.02, "means": [[2 * np.cos(k * np.pi / 4), 2 * np.sin(k * np.pi / 4)] for k in range(8)]},
    "grid": {"steps": 12_000, "sd": 0.05, "means": [[x, y] for x in range(-4, 5, 2) for y in range(-4, 5, 2)]},
}


def prepare(folder, data):
    """Nothing: rows are drawn."""


def ours(folder, task, seed=0):
    kept, last = (plane(k, seed, **PLANES[task]) if task in PLANES else digit_pairs(k, seed) for k in (True, False))
    return kept | {f"{name}_of_the_last_step": last[name] for name in ("modes", "quality", "step")}


def peer(folder, task):
    from sklearn.mixture import GaussianMixture

    begin, rows = time.process_time(), digits()[0] if task == "digit_pairs" else points(**PLANES[task])
    modes = 100 if task == "digit_pairs" else len(PLANES[task]["means"])
    kind = "diag" if task == "digit_pairs" else "full"
    model = GaussianMixture(modes, covariance_type=kind, reg_covar=1e-6, random_state=0).fit(rows.reshape(len(rows), -1))
    drawn = model.sample(SAMPLES)[0]
    found = of_pairs(drawn.reshape(-1, 2, 8, 8).round().clip(0, 16)) if task == "digit_pairs" else near(drawn, **PLANES[task])
    return found | {"cpu_seconds": time.process_time() - begin}


def trained(x, kept, seed, steps, penalty=0.001, **settings):
    """A GAN with the weights of the step kept, or of the last; which that is, and the seconds of CPU that it took."""
    import likeli
    from likeli.models.gan import GAN, AdversarialObjective
    from likeli.random import seeded

    data = likeli.load_data(x) if x.ndim == 2 else of_levels(x)
    with seeded(seed, "weights"):
        model = GAN(data.space, objective=AdversarialObjective(r1=penalty, r2=penalty))
    begin = time.process_time()
    rows = data if kept else data.split("train")[0]
    history = likeli.fit(model, rows, seed=seed, steps=steps, progress=False, **settings)
    step = history.best["step"] if history.best else steps
    return model, {"step": step, "cpu_seconds": time.process_time() - begin}


def of_levels(x):
    """Images of 17 grey levels, a tenth for validation."""
    import torch

    from likeli.data.dataset import Data
    from likeli.spaces import Pixels

    rows, n = torch.arange(len(x)), len(x) * 9 // 10
    return Data("pairs", torch.from_numpy(x), None, Pixels(x.shape[1:], 17), None, rows[:n], rows[n:], rows[:0])


def points(sd, means, **_):
    rng, means = np.random.default_rng(0), np.array(means)
    return (means[rng.integers(len(means), size=PAIRS)] + sd * rng.normal(size=(PAIRS, 2))).astype(np.float32)


def near(x, sd, means, **_):
    """Modes that are found, and the share of samples that lie in one."""
    r = np.linalg.norm(np.asarray(x, np.float64)[:, None] - np.array(means), axis=2)
    inside = r.argmin(1)[r.min(1) < 3 * sd]
    share = np.bincount(inside, minlength=len(means)) / len(x)
    return {"modes": int((share >= 0.01).sum()), "of": len(means), "quality": len(inside) / len(x)}


def plane(kept, seed, steps, **mixture):
    model, about = trained(points(**mixture), kept, seed, steps, batch=256)
    return near(model.sample(SAMPLES, seed=1).numpy(), **mixture) | about


def digits():
    """Pairs to train on, pairs of test digits, and single digits with their labels, of training and of test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order, rng = np.random.default_rng(0).permutation(len(images)), np.random.default_rng(1)
    train, test = order[360:], order[:360]
    drawn = [rng.choice(rows, (n, 2)) for n, rows in ((PAIRS, train), (SAMPLES, test))]
    pairs = [images[of].reshape(-1, 2, 8, 8).astype(np.int64) for of in drawn]
    return *pairs, (images[train], labels[train]), (images[test], labels[test])


def of_pairs(drawn):
    """Modes of pairs by a classifier of single digits, and how even they are."""
    from sklearn.svm import SVC

    _, real, train, test = digits()
    judge = SVC(gamma=0.001).fit(*train)
    (modes, kl), (_, floor) = (frequencies(judge, x) for x in (drawn, real))
    numbers = {"kl": kl, "floor": floor, "accuracy": float(judge.score(*test))}
    return {"modes": modes, "of": 100, "quality": float(np.exp(-kl))} | numbers


def digit_pairs(kept, seed, steps=3000):
    model, about = trained(digits()[0], kept, seed, steps, penalty=0.1)
    return of_pairs(model.sample(SAMPLES, seed=1).numpy()) | about


def frequencies(judge, pairs):
    """How many of 100 pairs occur, and the KL in nats of their frequencies to equal ones."""
    first, second = judge.predict(pairs.reshape(-1, 64)).reshape(-1, 2).T
    share = np.bincount(10 * first + second, minlength=100) / len(pairs)
    seen = share[share > 0]
    return len(seen), float((seen * np.log(100 * seen)).sum())

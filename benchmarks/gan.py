"""A generator of many modes: the step kept by the test of its samples, against the last step of the same run.

Ring: eight normals of standard deviation 0.02 on a circle of radius 2.  Grid: twenty-five of 0.05, two apart.  2,500 samples;
one within three standard deviations of a mode's mean is of high quality (98.9 % of the truth is), and a mode that 1 % of the
samples are near to counts.  Digit pairs: two digits of 8×8 cells as the two channels of an image, 100 modes, judged by a
classifier of single digits that is trained in the run; `kl` is that of the pairs' frequencies to equal ones, `floor` what as
many pairs of test digits give, and the quality exp(−kl), the effective share of the modes.  Both sides are one training by one
seed, which differ by nothing but the step that is kept.
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


def ours(folder, task):
    return side(task, kept=True)


def peer(folder, task):
    return side(task, kept=False)


def side(task, kept):
    """One training, and its generator at the step that was kept, or at the last."""
    return digit_pairs(kept) if task == "digit_pairs" else plane(kept, **PLANES[task])


def trained(x, kept, steps, penalty=0.01, **settings):
    """A GAN with the weights of the step kept, or of the last; which that is, and the seconds of CPU that it took."""
    import likeli
    from likeli.models.gan import GAN, AdversarialObjective
    from likeli.random import seeded

    data = likeli.load_data(x) if x.ndim == 2 else of_levels(x)
    with seeded(0, "weights"):
        model = GAN(data.space, objective=AdversarialObjective(r1=penalty, r2=penalty))
    begin = time.process_time()
    rows = data if kept else data.split("train")[0]
    history = likeli.fit(model, rows, steps=steps, progress=False, **settings)
    step = history.best["step"] if history.best else steps
    return model, {"step": step, "cpu_seconds": time.process_time() - begin}


def of_levels(x):
    """Images of 17 grey levels, a tenth for validation."""
    import torch

    from likeli.data.dataset import Data
    from likeli.spaces import Pixels

    rows, n = torch.arange(len(x)), len(x) * 9 // 10
    return Data("pairs", torch.from_numpy(x), None, Pixels(x.shape[1:], 17), None, rows[:n], rows[n:], rows[:0])


def plane(kept, steps, sd, means):
    rng, means = np.random.default_rng(0), np.array(means)
    x = means[rng.integers(len(means), size=PAIRS)] + sd * rng.normal(size=(PAIRS, 2))
    model, about = trained(x.astype(np.float32), kept, steps, batch=256)
    r = np.linalg.norm(model.sample(SAMPLES, seed=1).double().numpy()[:, None] - means, axis=2)
    near = r.argmin(1)[r.min(1) < 3 * sd]
    share = np.bincount(near, minlength=len(means)) / SAMPLES
    return {"modes": int((share >= 0.01).sum()), "of": len(means), "quality": len(near) / SAMPLES} | about


def digit_pairs(kept, steps=3000):
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    images, labels = load_digits(return_X_y=True)
    order, rng = np.random.default_rng(0).permutation(len(images)), np.random.default_rng(1)
    train, test = order[360:], order[:360]
    judge = SVC(gamma=0.001).fit(images[train], labels[train])
    pairs = {n: rng.choice(rows, (n, 2)) for n, rows in ((PAIRS, train), (SAMPLES, test))}
    rows = images[pairs[PAIRS]].reshape(-1, 2, 8, 8).astype(np.int64)
    model, about = trained(rows, kept, steps, penalty=0.1)
    drawn = model.sample(SAMPLES, seed=1).numpy()
    (modes, kl), (_, floor) = (frequencies(judge, x) for x in (drawn, images[pairs[SAMPLES]]))
    return {
        "modes": modes,
        "of": 100,
        "quality": float(np.exp(-kl)),
        "kl": kl,
        "floor": floor,
        "accuracy": float(judge.score(images[test], labels[test])),
    } | about


def frequencies(judge, pairs):
    """How many of 100 pairs occur, and the KL in nats of their frequencies to equal ones."""
    first, second = judge.predict(pairs.reshape(-1, 64)).reshape(-1, 2).T
    share = np.bincount(10 * first + second, minlength=100) / len(pairs)
    seen = share[share > 0]
    return len(seen), float((seen * np.log(100 * seen)).sum())

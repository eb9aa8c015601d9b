"""Filling cells that hide themselves: half of the columns are missing wherever they are above their mean.

The rest of each row is seen.  Columns are standardised before cells are hidden; the error is the root mean square over hidden
cells of the mean of the draws.  Beside a VAE that models why cells are missing stand imputers that take them to be missing at
random: Bayesian ridge and extra trees in turns (MICE's and MissForest's manner), the better of which is the peer.  One constant
a column, the hidden cells' own average, would reach 0.66 on letter and 1.76 on spam.

Source: Ipsen, Mattei & Frellsen (2021), arXiv:2006.12871, for the protocol.
"""

import time

import numpy as np

from benchmarks.imputation import chained

METRIC, HIGHER = "rmse", False
VARIANTS = [{"name": name, "missingness": why, "seconds": 120} for name in ("letter", "spam") for why in ("high", "at_random")]


def prepare(folder, data):
    import pandas as pd

    for name in ("letter", "spam"):
        x = pd.read_csv(data / f"{name}.csv").to_numpy(float)
        x = (x - x.mean(0)) / x.std(0)
        hidden = (x > 0) & (np.arange(x.shape[1]) < x.shape[1] // 2)
        np.savez(folder / f"{name}.npz", x=x, hidden=hidden)


def case(folder, name):
    with np.load(folder / f"{name}.npz") as found:
        x, hidden = found["x"], found["hidden"]
    return x, hidden, np.where(hidden, np.nan, x)


def judged(filled, x, hidden):
    return float(np.sqrt(((filled - x)[hidden] ** 2).mean()))


def ours(folder, name, missingness, seconds, seed=0):
    import torch

    import likeli

    x, hidden, holed = case(folder, name)
    torch.manual_seed(seed)
    data = likeli.load_data(holed, kind="real", fractions=(0.9, 0.1, 0))
    objective = likeli.VariationalObjective(missingness=missingness, train_samples=10)
    model = likeli.VAE(data.space, 10, likeli.CoderBackbone((128, 128)), objective=objective)
    begin = time.process_time()
    likeli.fit(model, data, minutes=seconds / 60, progress=False, seed=seed)
    found = likeli.impute(model, torch.from_numpy(holed), 99, samples=200, seed=seed)
    low, high = (end.numpy() for end in found.interval(0.9))
    cover = ((low <= x) & (x <= high))[hidden].mean()
    return {METRIC: judged(found.mean.numpy(), x, hidden), "cover": float(cover), "seconds": time.process_time() - begin}


def peer(folder, name, missingness, seconds, seed=0):
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.linear_model import BayesianRidge

    x, hidden, holed = case(folder, name)
    begin, trees = time.process_time(), ExtraTreesRegressor(50, random_state=seed)
    found = {
        "ridge": judged(chained(BayesianRidge(), holed, random_state=seed), x, hidden),
        "extra_trees": judged(chained(trees, holed, random_state=seed), x, hidden),
    }
    return {METRIC: min(found.values()), "seconds": time.process_time() - begin} | found

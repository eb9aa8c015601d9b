"""Real tables by every family that takes them, at the defaults: scikit-learn's bundled ones, and files where there are such.

If the environment variable LIKELI_DATA names a folder, its letter.csv, spam.csv, adult.csv (UCI) and classical sets of ADBench
(adbench_NAME.npz) are among them, as far as they are there; at most 3,000 rows of each, drawn once.
One seed; three by `make torture`.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from default_fits import FITTED, default_fit

import likeli
from torture import times

ROWS = 3000
BUNDLED = ("iris", "wine", "breast_cancer", "diabetes", "linnerud")
ANOMALIES = ("cardio", "letter", "mammography", "pendigits", "satellite", "thyroid")
FILES = (*(f"adbench_{name}.npz" for name in ANOMALIES), "letter.csv", "spam.csv", "adult.csv")
FOLDER = Path(os.environ.get("LIKELI_DATA", "/nonexistent"))
SETS = (*BUNDLED, "digits", *(name for name in FILES if (FOLDER / name).exists()))


def rows_of(name):
    if name in BUNDLED:
        return getattr(sklearn.datasets, f"load_{name}")().data
    if name == "digits":
        return name
    csv = name.endswith(".csv")
    table = pd.read_csv(FOLDER / name, skipinitialspace=True, na_values="?") if csv else np.load(FOLDER / name)["X"]
    chosen = np.random.default_rng(0).permutation(len(table))[:ROWS]
    return table.iloc[chosen] if csv else table[chosen]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", FITTED)
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("seed", range(times(1, 3)))
def test_no_default_fit_of_a_real_table_diverges(name, family, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = likeli.load_data(rows_of(name))
    default_fit(family, data, seed)

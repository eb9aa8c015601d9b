"""Tables that break fits, by every family that takes them, at the defaults: none diverges, and every number is finite."""

import warnings

import numpy as np
import pytest
from default_fits import FITTED, default_fit

import likeli

N = 2000
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(N, 3))
HOLES = np.where(RNG.random(Z.shape) < 0.2, np.nan, Z)
TABLES = {
    "student": RNG.standard_t(1, (N, 3)),
    "lognormal": np.exp(2 * Z),
    "spikes": np.where(RNG.random((N, 3)) < 0.8, 0, np.exp(Z)),
    "scales": Z * [1e-8, 1, 1e8],
    "constant": np.column_stack([Z, np.full(N, 3.0)]),
    "missing": HOLES,
    "equal": np.column_stack([Z, Z[:, 0]]),
    "whole with a spike": np.column_stack([np.where(RNG.random(N) < 0.9, 0, RNG.integers(0, 10**5, N)), Z]),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [None, "table"])
@pytest.mark.parametrize("family", FITTED)
@pytest.mark.parametrize("name", TABLES)
def test_no_default_fit_diverges(name, family, kind, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = likeli.load_data(TABLES[name], kind=kind)
    default_fit(family, data, seed)

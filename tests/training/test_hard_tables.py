"""Tables that break fits, by every family that takes them, at the defaults: none diverges, and every number is finite."""

import warnings

import numpy as np
import pytest

import likeli
from likeli.errors import LikeliError
from likeli.models import families

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
TEACHERS = {"distilled"}  # fitted to a trained model


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "table"])
@pytest.mark.parametrize("family", sorted(set(families()) - TEACHERS))
@pytest.mark.parametrize("name", TABLES)
def test_no_default_fit_diverges(name, family, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = likeli.load_data(TABLES[name], kind=kind)
        x = data.split("test")[0][:50]
        for seed in range(3):
            try:
                model = families()[family](data.space)
                if not model.takes_missing:
                    data.refuse_missing(family)
            except LikeliError as refusal:  # in one line, before any work
                assert "\n" not in str(refusal)
                return
            likeli.fit(model, data, steps=300, seed=seed, progress=False)
            assert model.space.check(model.sample(20), missing=True).shape == (20, *model.space.shape)
            if model.knows is not likeli.Knows.NOTHING:
                assert model.log_likelihood(x).value.isfinite().all()

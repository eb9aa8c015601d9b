"""Fits at a family's defaults that must hold on any table; what is asked of each of them."""

import warnings

import torch
from scipy.stats import t as student

import likeli
from likeli.errors import LikeliError
from likeli.models import families

TEACHERS = {"distilled"}  # fitted to a trained model
NO_SAMPLES = {"ae", "cae", "dae"}  # which have no p(x)
FITTED = sorted(name for name, cls in families().items() if cls.__module__.startswith("likeli.") and name not in TEACHERS)


def default_fit(family, data, seed=0, steps=300):
    """The fitted model, or None where the family refuses the data in one line, before any work.

    It has not diverged, the loss of validation rows is no worse than the untrained model's (where steps go down a loss by which
    rows can be compared), samples are inside the space and the log p of test rows, where there is one, is finite.
    """
    try:
        model = families()[family](data.space)
        if not model.takes_missing:
            data.refuse_missing(family)
    except LikeliError as refusal:
        assert "\n" not in str(refusal)
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        untrained = losses(model, data)
        likeli.fit(model, data, steps=steps, seed=seed, progress=False)
        more = losses(model, data) - untrained
        quantile = float(student.isf(3e-5, len(more) - 1))  # false alarms: 1 in 30,000, whatever the number of rows
        assert more.mean() <= quantile * more.std() / len(more) ** 0.5 + 0.02
        if family not in NO_SAMPLES:
            assert model.space.check(model.sample(20), missing=True).shape == (20, *model.space.shape)
        if model.knows is not likeli.Knows.NOTHING:
            assert model.log_likelihood(data.split("test")[0][:50]).value.isfinite().all()
    return model


def losses(model, data):
    """Of validation rows, (rows,) float64 with the same noise at each call; zeros where they say nothing of a fit."""
    silent = (likeli.Knows.NOTHING, likeli.Knows.UNNORMALIZED)
    if model.strategy != "sgd" or model.knows in silent:
        return torch.zeros(2, dtype=torch.float64)
    training = model.training
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        found = model.eval().loss(data.split("valid")[0]).double()
    model.train(training)
    return found

"""Fits at a family's defaults that must hold on any table; what is asked of each of them."""

import warnings

import likeli
from likeli.errors import LikeliError
from likeli.models import families

TEACHERS = {"distilled"}  # fitted to a trained model
NO_SAMPLES = {"ae", "cae", "dae"}  # which have no p(x)
FITTED = sorted(set(families()) - TEACHERS)


def default_fit(family, data, seed=0, steps=300):
    """The fitted model, or None where the family refuses the data in one line, before any work.

    It has not diverged, the best validation loss is no worse than the untrained model's, samples are inside the space and the
    log p of test rows, where there is one, is finite.
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
        history = likeli.fit(model, data, steps=steps, seed=seed, progress=False)
        assert not any("validation loss" in note for note in history.notes), history.notes
        if family not in NO_SAMPLES:
            assert model.space.check(model.sample(20), missing=True).shape == (20, *model.space.shape)
        if model.knows is not likeli.Knows.NOTHING:
            assert model.log_likelihood(data.split("test")[0][:50]).value.isfinite().all()
    return model

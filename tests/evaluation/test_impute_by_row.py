"""Draws of missing cells keyed by what is in a row do not depend on the rows beside it."""

import numpy as np
import pandas as pd
import pytest
import torch

import likeli


@pytest.mark.parametrize("family", ["Autoregressive", "DiscreteDiffusion", "CategoricalMixture", "VAE"])
def test_a_subset_is_filled_as_the_whole_is(family):
    rng = np.random.default_rng(0)
    whole = pd.DataFrame({name: rng.choice(list("xyz"), 60) for name in "abc"})
    data = likeli.load_data(whole)
    model = getattr(likeli, family)(data.space, **({"order": "any"} if family == "Autoregressive" else {}))
    likeli.fit(model, data, steps=3, progress=False)
    holed = whole.copy()
    holed.loc[:20, "a"], holed.loc[10:30, "c"] = None, None
    found, part = (likeli.impute(model, rows, 5, by_row=True).draws for rows in (holed, holed.iloc[5:25]))
    assert torch.equal(found[:, 5:25], part)
    missing = torch.tensor(holed.isna().to_numpy())
    assert not found[:, missing].eq(found[:1, missing]).all()  # and draws differ

"""A sampler against its own density: exact families pass, planted faults do not, p-values are uniform."""

import numpy as np
import pytest
import torch
from scipy import stats

import likeli
from families import FAMILIES, examples, takes, trained
from likeli.contract import Knows
from likeli.errors import InputError, Unsupported
from likeli.evaluation.own_density import sampler_test
from likeli.spaces import Binary, Counts, Pixels, Real, Table, Tokens
from likeli.spaces.marginal import Marginal
from likeli.spaces.table import Column

SPACES = {
    "real": Real((3,)),
    "tokens": Tokens(5, 4),
    "ended": Tokens(5, 4, ends=True),
    "binary": Binary((2, 3)),
    "pixels": Pixels((2, 2), 6),
    "counts": Counts((3,)),
    "table": Table((
        Column("a", "real", marginal=Marginal((-1.0, 0.5, 0.5), (0.5, 0.5, 2.0), (0.3, 0.4, 0.3), 0.01)),
        Column("b", "integer"),
        Column("c", "categorical", categories=("u", "v", "w")),
    )),
}  # fmt: skip


def exact(family, space):
    """Whether the family gives an exact log p on the space; one that is not exact anywhere is not asked."""
    if FAMILIES[family].knows is not Knows.EXACT or not takes(family, space):
        return False
    with likeli.seeded(0, "model"):
        model = FAMILIES[family](space)
    try:
        return model.log_likelihood(examples(space, 4)).knows is Knows.EXACT
    except Unsupported:
        return False


CASES = [(name, family) for name, space in SPACES.items() for family in FAMILIES if exact(family, space)]


@pytest.mark.parametrize("name,family", CASES)
def test_every_exact_family_draws_from_its_density(name, family):
    space = SPACES[name]
    with likeli.seeded(0, "model"):
        model = FAMILIES[family](space)
    trained(model, examples(space, 200), steps=20)
    found = sampler_test(model, n=200, steps=5)
    assert found.p > 1e-3 / len(CASES) or found.p > 1 / 1000  # one p of 1/1000 among all cases has a chance of 1 in 20
    assert found.moved > 0.2


def test_all_exact_families_are_among_the_cases():
    named = {"gmm", "ppca", "factor_analysis", "flow", "independent", "categorical_mixture", "autoregressive"}
    assert named <= {family for _, family in CASES}


def mixture():
    x = likeli.load_data("ring8").x[:800]
    model = likeli.GMM(Real((2,)), 8)
    likeli.fit(model, x, progress=False)
    return model


FAULTS = {
    "too wide": lambda x: x * 1.05,
    "shifted": lambda x: x + 0.1,
    "noise": lambda x: x + 0.1 * torch.randn_like(x),
    "modes too often": lambda x: torch.where((torch.arange(len(x)) % 2 == 0)[:, None], x.abs(), x),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault, monkeypatch):
    model, own = mixture(), likeli.GMM.sample
    monkeypatch.setattr(likeli.GMM, "sample", lambda self, *a, **k: FAULTS[fault](own(self, *a, **k)))
    assert sampler_test(model).p <= 0.002


def test_symbols_drawn_too_boldly_are_found(monkeypatch):
    """Samples at half the temperature: p ∝ p²."""
    space = Tokens(4, 5)
    model = likeli.Independent(space)
    likeli.fit(model, examples(space, 300), progress=False)
    own = likeli.Independent.sample

    def bold(self, n, y=None, **options):
        x = own(self, 4 * n, y, **options)
        log_p = self.log_likelihood(x).value
        return x[log_p.argsort(descending=True)[:n]]

    monkeypatch.setattr(likeli.Independent, "sample", bold)
    found = sampler_test(model)
    assert found.p <= 0.002
    assert found.rise < 0  # the sampler is narrower than its density


def test_p_values_are_uniform_for_a_right_sampler():
    model = likeli.GMM(Real((2,)), 2)
    likeli.fit(model, np.random.default_rng(0).normal(size=(300, 2)), progress=False)
    p = [sampler_test(model, n=60, steps=3, seed=s).p for s in range(0, 300, 2)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert np.sum(np.array(p) <= 0.05) <= stats.binom.ppf(1 - 1e-4, len(p), 0.05)


def test_what_is_not_exact_is_refused():
    with pytest.raises(Unsupported, match="exact"):
        sampler_test(likeli.VAE(Binary((2, 2))), n=20, steps=1)
    with pytest.raises(InputError, match="n: expected at least 20"):
        sampler_test(mixture(), n=5)

"""The rate of false alarms is what was asked for, whatever the model; a good model finds what the truth would find."""

import math

import numpy as np
import pandas
import pytest
import torch
from scipy import stats

import likeli
from likeli.errors import InputError, Unsupported
from likeli.evaluation.rows import anomaly
from likeli.evaluation.two_sample import roc_area
from likeli.models.autoencoder import AE
from likeli.models.gmm import GMM
from likeli.models.vae import VAE, CoderBackbone
from likeli.random import seeded
from likeli.spaces import Real


@pytest.fixture(scope="module")
def ring():
    return likeli.load_data("ring8", N=6000).truth


@pytest.fixture(scope="module")
def mixture(ring):
    model = GMM(Real((2,)), 8)
    for _ in model.em(ring.sample(3000, seed=1)):
        pass
    return model


def test_p_values_are_ranks_among_held_out_rows(mixture, ring):
    held_out, rows = ring.sample(99, seed=2), ring.sample(50, seed=3)
    detector = anomaly(mixture, held_out, rate=0.1)
    found = detector(rows)
    ours = -mixture.log_likelihood(held_out).value
    truth = [(1 + (ours >= s).sum().item()) / 100 for s in -mixture.log_likelihood(rows).value]
    assert found.p_value.tolist() == pytest.approx(truth)
    assert torch.equal(found.flagged, found.p_value <= 0.1 + 1e-12)
    assert torch.equal(found.flagged, found.score > detector.threshold)
    assert (ours > detector.threshold).sum() == 9  # the tenth largest of 99 is the threshold itself


def test_false_alarms_follow_the_stated_beta_distribution(mixture, ring):
    """Over 200 references of 59 rows at α = 0.1 the rate is Beta(6, 54) for a continuous score; KS at false alarm 1e-3."""
    ordinary = -mixture.log_likelihood(ring.sample(6000, seed=4)).value
    rates = []
    for seed in range(200):
        detector = anomaly(mixture, ring.sample(59, seed=100 + seed), rate=0.1)
        rates.append((ordinary > detector.threshold).double().mean().item())
    assert stats.kstest(rates, stats.beta(6, 54).cdf).pvalue > 1e-3
    low, high = detector.false_alarms
    assert stats.beta(6, 54).cdf(high) - stats.beta(6, 54).cdf(low) == pytest.approx(0.95)


def test_a_useless_model_keeps_the_rate_too(ring):
    model = VAE(Real((2,)), 1, CoderBackbone((4,)))  # never trained
    detector = anomaly(model, ring.sample(999, seed=5), rate=0.05, samples=2)
    alarms = detector(ring.sample(3000, seed=6)).flagged.double().mean().item()
    assert abs(alarms - 0.05) < 4 * math.sqrt(0.05 * 0.95 * (1 / 3000 + 1 / 1001))


def test_roc_area_of_a_fitted_mixture_is_that_of_the_true_density(mixture, ring):
    ordinary = ring.sample(1000, seed=7)
    with seeded(0):
        strange = torch.rand(1000, 2, dtype=torch.float64) * 8 - 4
    detector = anomaly(mixture, ring.sample(500, seed=8))
    auc, stderr = roc_area(detector(ordinary).score.numpy(), detector(strange).score.numpy())
    truth, _ = roc_area(-ring.log_prob(ordinary).numpy(), -ring.log_prob(strange).numpy())
    assert abs(auc - truth) < 3 * stderr


def test_an_autoencoder_scores_by_its_reconstruction():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    model = AE(Real((3,)), 1, hidden=(4,))
    detector = anomaly(model, x, rate=0.1)
    assert torch.allclose(detector(x[:5]).score, model.reconstruction_error(x[:5]).double())
    assert "r(x)" in detector.unit
    with pytest.raises(InputError, match="options"):
        anomaly(model, x, samples=3)


def test_rows_equal_to_the_reference_are_not_strange():
    x = torch.zeros(50, 2)
    model = GMM.from_parameters(Real((2,)), [1.0], torch.zeros(1, 2), torch.eye(2)[None])
    found = anomaly(model, x, rate=0.1)(x[:3])
    assert found.p_value.tolist() == [1, 1, 1]
    assert not found.flagged.any()


@pytest.mark.parametrize("rate,rows,what", [(0.0, 50, "rate"), (1.0, 50, "rate"), (0.01, 50, "rate: expected at least 1/51")])
def test_a_rate_that_cannot_be_kept_is_refused(mixture, ring, rate, rows, what):
    with pytest.raises(InputError, match=what):
        anomaly(mixture, ring.sample(rows), rate=rate)


def correlated(n, seed):
    """Three columns of which two say each other, in units a million apart."""
    with seeded(seed):
        a, e, c = torch.randn(3, n, dtype=torch.float64)
    return torch.stack([a, 1e6 * (a + 0.1 * e), c], 1)


@pytest.fixture(scope="module")
def gaussian():
    cov = torch.tensor([[1.0, 1e6, 0.0], [1e6, 1.01e12, 0.0], [0.0, 0.0, 1.0]]).double()
    space = Real((3,), scale=(1.0, 1e6, 1.0), names=("kilo", "milli", "other"))
    return GMM.from_parameters(space, [1.0], torch.zeros(1, 3), cov[None])


def test_the_odd_column_is_ranked_by_its_exact_conditional(gaussian):
    """−log p(x_j | x_−j) by the precision matrix Λ: N(−Σ Λ_jl x_l / Λ_jj, 1/Λ_jj); p-values by counting."""
    held_out, rows = correlated(300, 1), correlated(200, 2)
    precision = torch.linalg.inv(gaussian.moments()[2][0])

    def surprise(x):
        variance = 1 / precision.diagonal()
        mean = x - (x @ precision) * variance
        return 0.5 * ((x - mean).square() / variance + (2 * math.pi * variance).log())

    found, usual, ours = anomaly(gaussian, held_out)(rows), surprise(held_out), surprise(rows)
    p = (1 + (usual[None] >= ours[:, None]).sum(1)) / 301
    assert torch.allclose(found.odd_p, p.min(1).values)
    assert (p.gather(1, found.odd[:, None])[:, 0] == found.odd_p).all()


def test_a_changed_cell_is_named_whatever_its_unit(gaussian):
    """The last column is moved by 5 deviations, and a cell of the first two is moved by what its partner does not say."""
    rows, cell = correlated(300, 3), torch.arange(300) % 2 * 2
    rows[torch.arange(300), cell] += torch.where(cell == 2, 5.0, 1.0)
    found = anomaly(gaussian, correlated(500, 4))(rows)
    named = [found.names[j] for j in found.odd.tolist()]
    assert np.mean([n == "other" for n in named[1::2]]) > 0.95
    assert np.mean([n in ("kilo", "milli") for n in named[::2]]) > 0.95  # which of the two was moved, nobody can tell


def test_missing_cells_are_never_odd(gaussian):
    rows = correlated(50, 5)
    rows[:, 1] = torch.nan
    found = anomaly(gaussian, correlated(200, 6))(rows)
    assert (found.odd != 1).all()


def test_a_frame_comes_back_and_rows_of_the_fit_are_told(gaussian):
    frame = pandas.DataFrame(correlated(200, 7).numpy(), columns=["kilo", "milli", "other"])
    data = likeli.load_data(frame)
    model = GMM(data.space, 1)
    likeli.fit(model, data, progress=False)
    detector = anomaly(model, data, rate=0.2)
    assert len(detector.reference) == len(data.test)
    part = frame[["other", "milli", "kilo"]].iloc[[3, 9, 50, 120]]
    with pytest.warns(UserWarning, match="rows are equal to rows that the model was fitted to"):
        found = detector(part)
    assert list(found.frame.columns) == ["score", "p_value", "flagged", "column", "column_p", "trained"]
    assert list(found.frame.index) == [3, 9, 50, 120]
    assert found.frame["trained"].tolist() == [i in data.train.tolist() for i in (3, 9, 50, 120)]
    assert found.frame["score"].tolist() == pytest.approx((-model.log_likelihood(part).value).tolist())
    with pytest.warns(UserWarning, match="160 of 160 reference rows are equal"):
        anomaly(model, data.split("train")[0], trained=data.split("train")[0])


def test_families_that_take_no_missing_cell_name_no_column(ring):
    model = likeli.Flow(Real((2,)))
    assert anomaly(model, ring.sample(50)).columns is None
    with pytest.raises(Unsupported, match="columns: flow cannot take a cell of these rows as missing"):
        anomaly(model, ring.sample(50), columns=True)


def test_conditional_models_want_their_labels():
    model = VAE(Real((2,)), 1, CoderBackbone((4,)), condition=likeli.Labels(2))
    with pytest.raises(InputError, match="y: expected"):
        anomaly(model, np.zeros((50, 2)))


def test_families_without_a_score_say_so():
    class Mute(likeli.GenerativeModel):
        knows, strategy = likeli.Knows.NOTHING, "sgd"

        def loss(self, x, y=None):
            return x.sum(1)

        def draw(self, noise, y=None):
            return torch.zeros(noise.rows, 2)

    with pytest.raises(Unsupported, match="neither"):
        anomaly(Mute(Real((2,))), torch.zeros(50, 2))

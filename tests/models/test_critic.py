"""A critic that tells the batch from the code of counts, against known truths: drawn cells of given types and batches."""

import os

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import likeli
from likeli.errors import InputError
from likeli.models.vae import VariationalObjective
from likeli.spaces import Counts, Labels, Real

GENES, TYPES = 30, 3


def cells(n, seed=0):
    """(counts, type, batch): Poisson of a rate for each type, times a factor for each batch and gene, both known."""
    rates = np.random.default_rng(0)
    of_type, of_batch = 2 * np.exp(rates.normal(size=(TYPES, GENES))), np.exp(rates.normal(size=(2, GENES)))
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(TYPES, size=n), rng.integers(2, size=n)
    return rng.poisson(of_type[kind] * of_batch[batch]), kind, batch


def made(weight=0.0, turns=5, classes=2, **options):
    with likeli.seeded(0):
        objective, backbone = VariationalObjective(critic=weight, critic_turns=turns), likeli.CoderBackbone((32,))
        return likeli.VAE(Counts((GENES,)), 8, backbone, objective=objective, condition=Labels(classes), **options)


def share_right(probe, model, what):
    """How many of 1,000 new cells a probe of the code gets right that learned from 3,000 others; `what`: types 1, batches 2."""
    (x, *known), (new, *truth) = cells(3000, seed=2), cells(1000, seed=3)
    z, fresh = (likeli.embed(model, rows, of[1]).numpy() for rows, of in ((x, known), (new, truth)))
    return (probe.fit(z, known[what - 1]).predict(fresh) == truth[what - 1]).sum()


@pytest.mark.slow
def test_the_batch_is_told_at_chance_from_the_code_and_types_stay():
    x, _, batch = cells(4000, seed=1)
    logistic, neighbours = make_pipeline(StandardScaler(), LogisticRegression()), KNeighborsClassifier(15)
    right, kept = {}, {}
    for weight in (0.0, 3.0):
        model = made(weight)
        likeli.fit(model, x, batch, steps=600, progress=False)
        right[weight], kept[weight] = share_right(logistic, model, 2), share_right(neighbours, model, 1)
    low, high = stats.binom.interval(0.99, 1000, 0.5)
    assert right[0.0] > 600  # 6 standard errors above chance
    assert low <= right[3.0] <= high
    assert kept[3.0] >= 0.99 * kept[0.0] > 980


def test_the_loss_is_the_bound_and_the_weight_of_what_is_given_away():
    x, _, batch = cells(64)
    x, y = torch.from_numpy(x), torch.from_numpy(batch)
    with_critic = made(2.5).eval()
    without = made().eval()
    without.load_state_dict({k: v for k, v in with_critic.state_dict().items() if not k.startswith("critic.")})
    with likeli.seeded(1):
        told = with_critic.loss(x, y)
    with likeli.seeded(1):
        bound = without.loss(x, y)
    log_c = with_critic.critic(with_critic.encode(x, y)).log_softmax(1)[torch.arange(64), y]
    torch.testing.assert_close(told, bound + 2.5 * (np.log(2) + log_c))
    a, b = (model.log_likelihood(x, y, seed=3) for model in (with_critic, without))
    assert torch.equal(a.value, b.value)  # which is of p(x|y), whatever the training did
    assert a.knows is likeli.Knows.LOWER_BOUND
    assert "the training loss is not a bound" in with_critic.notes[0]


def test_a_blind_critic_is_told_nothing_and_a_seeing_one_the_entropy():
    """Mean of H(y) + log c(y|z): 0 of a critic that says the shares, H(y) of one that is right; never above."""
    y = torch.arange(90) % 3
    model = made(1.0, classes=3)
    z = torch.nn.functional.one_hot(y, 8).float()
    last = model.critic[-1]
    torch.nn.init.zeros_(last.weight), torch.nn.init.zeros_(last.bias)
    torch.testing.assert_close(model._given_away(z, y).mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    model.critic = torch.nn.Linear(8, 3, bias=False)
    with torch.no_grad():
        model.critic.weight.copy_(50 * torch.eye(3, 8))
    torch.testing.assert_close(model._given_away(z, y).mean(), torch.tensor(np.log(3)).float())


def test_the_critic_learns_from_the_code_alone_and_the_model_against_it():
    x, _, batch = cells(600)
    model = made(3.0)
    history = likeli.fit(model, x, batch, steps=30, log_every=1, progress=False)
    told = [row["critic"] for row in history.rows if "critic" in row]
    assert model.strategy == "critic"
    assert abs(told[0] - np.log(2)) < 0.2
    assert all(np.isfinite(told))
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]


def test_a_run_with_a_critic_resumed_twice_is_one_that_never_stopped(tmp_path, monkeypatch):
    from likeli.training.run import Run

    x, _, batch = cells(300)
    rate = Run.rate

    def run(out, stop=None):
        with monkeypatch.context() as patch:
            patch.setattr(Run, "rate", lambda run: (run.step == stop and os.kill(os.getpid(), 15)) or rate(run))
            model = made(3.0, turns=2)
            try:
                likeli.fit(model, x, batch, steps=12, batch=64, out=tmp_path / out, resume=True, progress=False)
            except likeli.Interrupted:
                return None
        return model.state_dict()

    whole = run("whole")
    assert [run("cut", 3), run("cut", 7)] == [None, None]
    cut, again = run("cut"), likeli.load(tmp_path / "cut").state_dict()
    assert all(torch.equal(whole[name], cut[name]) and torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"critic": -1.0}, "critic: expected a number of at least 0"),
        ({"critic": float("inf")}, "critic: expected a finite number"),
        ({"critic": 1.0, "critic_turns": 0}, "critic_turns: expected a whole number from 1"),
    ],
)
def test_a_weight_outside_its_range_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        VariationalObjective(**options)


def test_without_classes_there_is_nothing_to_tell():
    for condition in (None, Labels(1), Real((2,))):
        with pytest.raises(InputError, match="critic: expected 0 without labels of two classes or more"):
            likeli.VAE(Counts((GENES,)), objective=VariationalObjective(critic=1.0), condition=condition)

import math
import os
import signal

import pytest
import torch
from probes import MixtureProbe, NoisyProbe, Rows, noisy, rows
from torch import nn

from likeli import checkpoint
from likeli.contract import GenerativeModel, Knows
from likeli.errors import Diverged, InputError, Interrupted
from likeli.latent.chain import Hierarchy
from likeli.probability.draw import diagonal_gaussian
from likeli.spaces import Real, Space
from likeli.training import fit
from likeli.training.strategies import STRATEGIES, strategy


def poison(monkeypatch, when, change):
    """Change the `when`-th training batch."""
    seen = [0]

    def hook(model, u):
        seen[0] += model.training
        return change(u) if seen[0] == when and model.training else u

    monkeypatch.setattr(NoisyProbe, "hook", staticmethod(hook))


def test_a_nan_batch_at_step_50_stops_there_and_costs_no_weights(monkeypatch, tmp_path):
    poison(monkeypatch, 50, lambda u: u.index_fill(0, torch.tensor([3]), math.nan))
    model = noisy()
    with pytest.raises(Diverged) as caught:
        fit(model, Rows(rows()), steps=100, batch=16, out=tmp_path / "run", checkpoint_every=0.0)
    assert "diverged at step 50: loss is nan on a batch of 16 rows, from " in str(caught.value)
    assert "\n" not in str(caught.value)
    saved = checkpoint.read(tmp_path / "run")
    assert saved.step == 49
    assert all(v.isfinite().all() for v in (*model.parameters(), *saved.model.parameters()))
    assert caught.value.exit_code == 1


def test_a_gradient_that_is_not_finite_stops_before_the_step(monkeypatch):
    # √0 has an infinite slope, 0 · ∞ is NaN: the loss is fine and its gradient is not
    poison(monkeypatch, 5, lambda u: u + (0 * PARAMETER[0]).sqrt())
    model = noisy()
    PARAMETER[:] = [model.log_scale]
    with pytest.raises(Diverged, match="at step 5: gradient is nan on a batch of 16 rows"):
        fit(model, rows(), steps=20, batch=16)
    assert all(p.isfinite().all() for p in model.parameters())


PARAMETER = []


def interrupt(u):
    os.kill(os.getpid(), signal.SIGINT)
    return u


def test_a_learning_rate_of_a_thousand_diverges_in_words():
    model = noisy()
    words = r"training diverged at step \d+: (loss|gradient) is -?(nan|inf) on a batch of 16 rows, from"
    with pytest.raises(Diverged, match=words):
        fit(model, rows(), steps=200, batch=16, lr=1e3)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_diverged_run_keeps_the_best_weights_it_validated(monkeypatch):
    models = noisy(), noisy()
    for model, change in zip(models, (lambda u: u * math.inf, interrupt)):
        poison(monkeypatch, 50, change)
        with pytest.raises((Diverged, Interrupted)):
            fit(model, Rows(rows()), steps=100, batch=16, validate_every=20)
    assert not torch.equal(models[0].net[0].weight, noisy().net[0].weight)
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()):
        assert torch.equal(a, b)


class OneLevel(Hierarchy):
    """p(z) = N(0, 1), q(z|x) = N(w x, 1), p(x|z) = N(z, 1), with either term made to fail."""

    depth = 1
    broken = ""

    def __init__(self, space: Space):
        super().__init__(space)
        self.w = nn.Parameter(torch.ones(1))

    def infer(self, x, y=None):
        return x * self.w * (math.nan if self.broken == "kl" else 1.0)

    def root(self, noise):
        return None

    def prior(self, level, state, y=None):
        return diagonal_gaussian(torch.zeros(1, 1), torch.ones(1, 1))

    def posterior(self, level, state, context, prior):
        return diagonal_gaussian(context, torch.ones_like(context))

    def descend(self, level, state, z):
        return z.nan_to_num()

    def observation(self, state, y=None):
        return diagonal_gaussian(state * (math.inf if self.broken == "reconstruction" else 1.0), torch.ones_like(state))


@pytest.mark.parametrize("term, words", [("reconstruction", r"loss \(reconstruction\)"), ("kl", r"loss \(kl of level 1\)")])
def test_the_failing_term_of_a_bound_is_named(term, words):
    model = OneLevel(Real((1,)))
    model.broken = term
    with pytest.raises(Diverged, match=f"step 1: {words} is (nan|inf)"):
        fit(model, torch.ones(20, 1), steps=3, batch=4)


def test_em_that_meets_infinity_is_a_divergence(monkeypatch):
    monkeypatch.setattr(MixtureProbe, "em", lambda self, x, seed, start: iter([-3.0, -2.0, math.nan]))
    with pytest.raises(Diverged, match="at step 3: log-likelihood is nan"):
        fit(MixtureProbe(Real((5,))), rows())


class Duel(GenerativeModel):
    """Two players, each with its own optimiser."""

    knows = Knows.NOTHING
    strategy = "duel"

    def __init__(self, space: Space):
        super().__init__(space)
        self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def loss(self, x, y=None):
        return (self.a * self.b).expand(len(x))

    def draw(self, noise, y=None):
        return noise.normal(1)


def test_a_new_strategy_is_one_function(monkeypatch, tmp_path):
    from likeli.training.engine import Descent

    monkeypatch.setattr("likeli.training.strategies.STRATEGIES", STRATEGIES)
    with pytest.raises(InputError, match="model: expected a strategy of"):
        fit(Duel(Real((1,))), torch.ones(4, 1), steps=2)

    @strategy("duel", stochastic=True)
    def duel(run):
        players = [run.keep(n, Descent([p], run.settings, run.model)) for n, p in run.model.named_parameters()]
        for x, y in run.batches():
            loss = run.model.loss(x, y).mean()
            players[0].step(loss, 0.1)
            players[1].step(-run.model.loss(x, y).mean(), 0.1)
            run.average.update()
            yield {"loss": loss.item()}

    try:
        model = Duel(Real((1,)))
        history = fit(model, torch.ones(4, 1), steps=7, out=tmp_path / "run")
    finally:
        del STRATEGIES["duel"]
    assert history.steps == 7
    assert model.a.item() < 1 < model.b.item()

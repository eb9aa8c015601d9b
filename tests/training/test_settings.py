import json
import math
import warnings

import pytest
import torch

import likeli
from families import FAMILIES
from likeli.errors import InputError
from likeli.spaces import Tokens
from likeli.training.settings import Budget, TrainSettings, default_steps, learning_rate, resolve, validation_interval


def test_rate_rises_linearly_and_falls_as_a_cosine_to_zero():
    s = TrainSettings(lr=0.2, warmup=0.1)
    assert learning_rate(0.0, s) == 0
    assert learning_rate(0.05, s) == pytest.approx(0.1, rel=1e-15)
    assert learning_rate(0.1, s) == 0.2
    assert learning_rate(0.55, s) == pytest.approx(0.1, rel=1e-12)
    assert learning_rate(0.325, s) == pytest.approx(0.2 * math.cos(math.pi / 8) ** 2, rel=1e-12)
    assert learning_rate(1.0, s) == pytest.approx(0, abs=1e-16)


def test_rate_without_warmup_or_decay_is_constant():
    s = TrainSettings(lr=0.2, warmup=0.0, decay="none")
    assert {learning_rate(p / 7, s) for p in range(8)} == {0.2}


def test_progress_counts_steps_at_their_middle_and_minutes_from_the_first_leg_on():
    assert [Budget(steps=4).progress(k, 99.0) for k in range(4)] == [0.125, 0.375, 0.625, 0.875]
    assert Budget(minutes=2).progress(12345, 30.0) == 0.25
    assert Budget(minutes=2).progress(12345, 130.0) == 1.0


def test_budget_says_what_is_spent():
    assert [Budget(steps=3).spent(k, 1e9) for k in (2, 3)] == [None, "steps"]
    assert [Budget(minutes=0.5).spent(10**9, s) for s in (29.9, 30.0)] == [None, "minutes"]


@pytest.mark.parametrize("rows, steps", [(2, 2000), (1437, 2000), (54000, 20 * 422), (10**7, 20000)])
def test_default_steps_follow_the_rows(rows, steps):
    assert default_steps(rows, 128) == steps


def test_validation_is_an_epoch_apart_unless_that_costs_too_much():
    assert validation_interval(54000, 6000, 128) == 421
    assert validation_interval(1437, 1024, 128) == 48  # 1024 rows at a third of a training pass: 5.6 % of 48 steps


def test_family_defaults_come_between_ours_and_the_users():
    s = resolve({"lr": 0.5}, {"lr": 0.1, "ema": 0.9})
    assert (s.lr, s.ema, s.batch) == (0.5, 0.9, 128)
    assert resolve(s.plain(), {}) == s


@pytest.mark.parametrize(
    "given, words",
    [
        ({"lrr": 1.0}, "train.lrr: unknown setting; did you mean lr?"),
        ({"lr": -1.0}, "train.lr: expected"),
        ({"lr": math.nan}, "train.lr: expected a finite number"),
        ({"lr": 1e30}, "train.lr: expected"),
        ({"lr": "fast"}, "train.lr: expected a finite number"),
        ({"batch": 0}, "train.batch: expected a whole number of at least 1"),
        ({"batch": 1.5}, "train.batch: expected an integer"),
        ({"batch": True}, "train.batch: expected an integer"),
        ({"patience": 0}, "train.patience: expected"),
        ({"ema": 1.0}, "train.ema: expected"),
        ({"warmup": 1.0}, "train.warmup: expected"),
        ({"betas": (0.9,)}, "train.betas: expected 2 values"),
        ({"clip": 0.0}, "train.clip: expected"),
        ({"skip": 1.0}, "train.skip: expected a number above 1, or none"),
        ({"precision": "16"}, "train.precision: expected one of 32, bf16-mixed"),
        ({"checkpoint_every": -1.0}, "train.checkpoint_every: expected"),
    ],
)
def test_bad_settings_are_named_in_one_line(given, words):
    with pytest.raises(InputError) as caught:
        resolve(given, {})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"steps": -3}, "got -3"),
        ({"steps": 2.5}, "got 2.5"),
        ({"minutes": 0}, "minutes: expected a number above 0"),
        ({"minutes": math.nan}, "got nan"),
        ({"minutes": math.inf}, "got inf"),
        ({"steps": 1, "minutes": 1.0}, "steps, minutes: expected one of the two, got both"),
    ],
)
def test_bad_budgets_are_named_in_one_line(given, words):
    with pytest.raises(InputError, match=words):
        Budget(**given)


def test_bf16_says_how_it_compares_with_float32_and_changes_no_step():
    """The measurement leaves weights, buffers and random numbers alone: with it and without, the same run bit for bit."""
    data = likeli.load_data("ring8")
    runs = []
    for told in (True, False):
        with likeli.seeded(1, "weights"):
            model = likeli.ScoreSDE(data.space, hidden=(16,), times="importance")
        with pytest.MonkeyPatch.context() as patch:
            if not told:
                patch.setattr("likeli.training.session.speed_of_bf16", lambda *_: 2.0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                done = likeli.fit(model, data, steps=4, seed=1, precision="bf16-mixed", progress=False)
        assert sum("times the speed of float32, measured at the start" in note for note in done.notes) == 1
        runs.append(([row["loss"] for row in done.rows], model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][k], v) for k, v in runs[1][1].items())
    plain = likeli.fit(likeli.ScoreSDE(data.space, hidden=(16,)), data, steps=2, progress=False)
    assert not any("float32" in note for note in plain.notes)


def test_a_slower_bf16_is_warned_of(monkeypatch):
    data = likeli.load_data("ring8")
    monkeypatch.setattr("likeli.training.session.speed_of_bf16", lambda *_: 0.65)
    with pytest.warns(UserWarning, match="at 0.65 times the speed of float32.*precision 32 is quicker"):
        likeli.fit(likeli.FlowMatching(data.space, hidden=(8,)), data, steps=1, precision="bf16-mixed", progress=False)


@pytest.mark.parametrize("family", ["autoregressive", "discrete_diffusion"])
def test_text_has_defaults_of_its_own(family, tmp_path):
    """Batches of 16 where rows are text, 64 for the same symbols without an alphabet, and what is asked for in either case."""
    x = torch.randint(3, (80, 4), generator=torch.Generator().manual_seed(0))
    for alphabet, asked, batch in (("abc", {}, 16), (None, {}, 64), ("abc", {"batch": 8}, 8)):
        out = tmp_path / f"{alphabet}{batch}"
        likeli.fit(FAMILIES[family](Tokens(4, 3, alphabet)), x, steps=1, out=out, progress=False, **asked)
        config = next(out.rglob("config.json"))
        assert json.loads(config.read_text())["info"]["training"]["batch"] == batch

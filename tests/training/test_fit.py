import copy
import json
import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from probes import MeanProbe, MixtureProbe, NoisyProbe, Rows, noisy, rows

from likeli import checkpoint
from likeli.contract import GenerativeModel, Knows
from likeli.errors import InputError, LikeliError
from likeli.models import GMM, gmm
from likeli.random import seeded
from likeli.spaces import Labels, Real, Space
from likeli.training import fit
from likeli.training.engine import Descent, orthogonal, training_loss
from likeli.training.settings import TrainSettings, learning_rate

SMALL = {"batch": 32, "steps": 60}


def bits(history, *names):
    return [[float(row[n]).hex() for n in names if n in row] for row in history.rows]


def test_two_runs_are_equal_to_the_bit():
    models = noisy(), noisy()
    histories = [fit(m, Rows(rows()), **SMALL, seed=3) for m in models]
    names = ("step", "loss", "valid", "lr", "gradient")
    assert bits(histories[0], *names) == bits(histories[1], *names)
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()):
        assert torch.equal(a, b)
    other = fit(noisy(), Rows(rows()), **SMALL, seed=4)
    assert bits(other, "loss") != bits(histories[0], "loss")


def test_the_loop_is_the_one_a_reader_would_write():
    """Adam by hand on the same batches with the same noise: the loop adds nothing and leaves nothing out."""
    from likeli.random import derive, permutation

    x, steps = rows(), 20
    ours = noisy()
    history = fit(ours, x, steps=steps, batch=64, lr=0.01, ema=0.0, log_every=1, seed=5)
    model, s = noisy(), TrainSettings(lr=0.01)
    adam = torch.optim.Adam(model.parameters(), betas=s.betas)
    with torch.random.fork_rng():
        for k in range(steps):
            adam.param_groups[0]["lr"] = learning_rate((k + 0.5) / steps, s)
            torch.manual_seed(derive(5, "step", k))
            rows_now = permutation(300, 5, k // 4)[k % 4 * 64 : k % 4 * 64 + 64]
            loss = model.loss(x[rows_now]).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            # the fused kernel may order its operations otherwise: float32 rounding, amplified by 20 steps
            assert history.rows[k]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(ours.parameters(), model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_row_is_seen_once_an_epoch_up_to_the_dropped_partial_batch(monkeypatch):
    seen = []
    monkeypatch.setattr(NoisyProbe, "hook", staticmethod(lambda model, u: seen.append(u.clone()) or u))
    x = torch.arange(50.0)[:, None].expand(50, 5).contiguous()
    fit(noisy(), x, steps=6, batch=16)
    epochs = [torch.cat(seen[i : i + 3])[:, 0].tolist() for i in (0, 3)]
    assert all(len(set(e)) == 48 for e in epochs)
    assert epochs[0] != epochs[1]


def test_nothing_of_the_callers_is_disturbed():
    torch.manual_seed(11)
    model = noisy()
    x = rows()
    copy, threads = x.clone(), torch.get_num_threads()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    fit(model, x, **SMALL)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    assert torch.get_num_threads() == threads
    assert not any(m.training for m in model.modules())
    assert torch.equal(x, copy)
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


class Climber(GenerativeModel):
    """θ rises by about lr a step; a row's validation loss is (θ − x)², so the best θ is known."""

    knows = Knows.NOTHING
    strategy = "sgd"

    def __init__(self, space: Space):
        super().__init__(space)
        self.theta = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def loss(self, x, y=None):
        return -self.theta.expand(len(x)) if self.training else (self.theta - x[:, 0]).square()

    def draw(self, noise, y=None):
        return noise.normal(1)


STEADY = {"lr": 0.125, "warmup": 0.0, "decay": "none", "ema": 0.0, "validate_every": 1, "valid_rows": 1}


def test_early_stopping_keeps_the_best_weights():
    model = Climber(Real((1,)))
    history = fit(model, Rows(torch.full((40, 1), 3.0), valid=10), steps=500, batch=10, patience=5, **STEADY)
    assert history.best["step"] == 24  # 24 · 0.125 = 3
    assert history.stopped_because == "patience"
    assert history.steps == 29
    assert model.theta.item() == pytest.approx(3.0, abs=1e-6)  # Adam's ε takes 1e-8 of each step
    assert len(history.rows) == 29
    assert history.rows[23]["valid"] == history.best["valid"] < 1e-12


def test_best_weights_are_kept_when_the_whole_budget_is_used():
    model = Climber(Real((1,)))
    history = fit(model, Rows(torch.full((40, 1), 3.0), valid=10), steps=50, batch=10, **STEADY)
    assert (history.best["step"], history.steps, history.stopped_because) == (24, 50, "steps")
    assert model.theta.item() == pytest.approx(3.0, abs=1e-6)


def test_the_average_is_what_is_validated_and_kept():
    model = Climber(Real((1,)))
    options = STEADY | {"ema": 0.9, "validate_every": 40}
    history = fit(model, Rows(torch.full((40, 1), 3.0), valid=10), steps=40, batch=10, **options)
    average = theta = 0.0
    for n in range(40):
        theta += 0.125
        average += (1 - min(0.9, (1 + n) / (10 + n))) * (theta - average)
    assert model.theta.item() == pytest.approx(average, abs=1e-5)
    assert history.best["valid"] == pytest.approx((average - 3) ** 2, abs=1e-4)


def test_validation_has_the_same_noise_each_time_and_enough_rows():
    calls = []

    def hook(model, u):
        if not model.training:
            calls.append((torch.get_rng_state(), len(u)))
        return u

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoisyProbe, "hook", staticmethod(hook))
        fit(noisy(), Rows(rows()), steps=20, batch=8, validate_every=10, valid_rows=100, ema=0.0)
    calls = calls[1:-1]  # between one batch of the untrained model and the same of the weights that were kept
    first, second = calls[: len(calls) // 2], calls[len(calls) // 2 :]
    assert sum(n for _, n in first) == 120  # 60 rows, twice
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], first[2][0])


def test_a_fit_that_ruins_the_weights_says_so_and_one_on_heavy_tails_does_not():
    """Validation rows are compared with themselves: a first batch without an outlier says nothing of the untrained model."""
    ruined = fit(noisy(), Rows(rows()), steps=20, batch=8, lr=30.0, ema=0.0)
    tailed = rows().clone()
    tailed[::7] *= 100
    settled = fit(noisy(), Rows(tailed), steps=20, batch=8, lr=1e-3, ema=0.0)
    assert any("worse than the untrained" in note for note in ruined.notes)
    assert not any("worse than the untrained" in note for note in settled.notes)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_bf16_is_near_float32_and_does_not_round_the_data(scale):
    space = Real((5,), mean=scale, scale=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        models = NoisyProbe(space), NoisyProbe(space)
    models[1].load_state_dict(models[0].state_dict())
    x = rows().double() + scale
    a, b = (fit(m, x, **SMALL, precision=p) for m, p in zip(models, ("32", "bf16-mixed")))
    assert bits(a, "loss") != bits(b, "loss")
    # products of eight-bit mantissas: 2⁻⁸ relative each, random in sign; data rounded at 1e6 would be off by thousands
    assert b.rows[0]["loss"] == pytest.approx(a.rows[0]["loss"], rel=2**-7)
    assert next(models[1].parameters()).dtype == torch.float32


def test_a_float64_model_stays_so():
    model = noisy().double()
    fit(model, rows().double(), **SMALL)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_clipping_bounds_the_step_and_frozen_weights_stay():
    model = noisy()
    model.net[0].weight.requires_grad_(False)
    frozen, bias = model.net[0].weight.clone(), model.net[0].bias.detach().clone()
    settings = TrainSettings(clip=1e-3, ema=0.0)
    descent = Descent(model.parameters(), settings, model)
    norm = descent.step(training_loss(model.loss, rows(), None, settings).mean(), 0.1)
    clipped = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))
    assert norm > 1e-2
    assert clipped == pytest.approx(1e-3, rel=1e-3)  # torch divides by norm + 1e-6
    assert torch.equal(model.net[0].weight, frozen)
    assert not torch.equal(model.net[0].bias, bias)


def test_a_step_of_too_large_a_gradient_is_skipped_and_counted(monkeypatch):
    """Two batches in sixty give a gradient a thousand times the others': both are skipped, none of the others is."""
    plain, steps = NoisyProbe.loss, []

    def loss(self, x, y=None):
        if self.training:
            steps.append(copy.deepcopy(dict(self.named_parameters())))
        return plain(self, x, y) * (1000 if self.training and len(steps) in (20, 40) else 1)

    monkeypatch.setattr(NoisyProbe, "loss", loss)
    history = fit(noisy(), rows(), skip=30.0, ema=0.0, **SMALL)
    assert any(note.startswith("2 of 60 steps were skipped") for note in history.notes)
    still = [i for i in range(1, 60) if all(torch.equal(steps[i][k], v) for k, v in steps[i - 1].items())]
    assert still == [20, 40]


def test_steps_are_those_of_torchs_optimiser_and_only_matrices_decay():
    model, peer = noisy(), noisy()
    settings = TrainSettings(weight_decay=0.3, clip=0.5, betas=(0.8, 0.9))
    descent = Descent(model.parameters(), settings, model)
    decayed, others = ([p for p in peer.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, betas=(0.8, 0.9), fused=True)
    for k in range(20):
        torch.manual_seed(k)
        descent.step(training_loss(model.loss, rows(), None, settings).mean(), 0.01 / (k + 1))
        torch.manual_seed(k)
        adam.zero_grad()
        peer.loss(rows()).mean().backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.5)
        for group in adam.param_groups:
            group["lr"] = 0.01 / (k + 1)
        adam.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), peer.parameters()))


def test_a_conditional_model_gets_the_labels_of_its_rows(monkeypatch):
    monkeypatch.setattr(NoisyProbe, "loss", lambda self, x, y=None: 0 * self.log_scale.sum() + (x[:, 0] - y).abs())
    y = torch.arange(90) % 3
    model = noisy(condition=Labels(3))
    history = fit(model, Rows(y[:, None].expand(90, 5).float(), y, valid=30), steps=5, batch=16)
    assert all(row["loss"] == 0 for row in history.rows)
    assert history.best["valid"] == 0


def test_labels_of_a_data_set_are_left_out_for_an_unconditional_model():
    assert fit(noisy(), Rows(rows(), torch.zeros(300)), steps=3, batch=16).steps == 3


def test_minutes_follow_the_clock_and_the_schedule_with_them(monkeypatch):
    clock = Clock(monkeypatch)
    history = fit(noisy(), rows(), minutes=1, batch=32, log_every=1, lr=0.01)
    assert (history.steps, history.stopped_because) == (61, "minutes")  # the first step, which sets things up, is not counted
    # a step's rate is taken after its forward pass, which is when this clock ticks
    expected = [learning_rate(k / 60, TrainSettings(lr=0.01)) for k in range(61)]
    assert [row["lr"] for row in history.rows] == pytest.approx(expected, rel=1e-12)
    assert clock.now == 61


def test_em_stops_before_a_pass_that_would_outlast_its_minutes(monkeypatch):
    """Passes of 25 seconds in a minute: the first, which is not counted, and two; a third would end at 75."""
    clock = Clock(monkeypatch)
    once = gmm.moments

    def slow(*given):
        clock.now += 25
        return once(*given)

    monkeypatch.setattr(gmm, "moments", slow)
    history = fit(GMM(Real((2,)), components=2, tol=0.0), torch.randn(200, 2, dtype=torch.float64), minutes=1)
    assert (history.steps, history.stopped_because) == (3, "minutes")
    assert clock.now == 75


class Clock:
    """A clock that ticks one second a batch."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("likeli.training.run.time", self)
        monkeypatch.setattr(NoisyProbe, "hook", staticmethod(self.tick))

    def perf_counter(self):
        return 1000.0 + self.now

    def tick(self, model, u):
        self.now += 1.0
        return u


def test_em_runs_until_its_tolerance_and_never_falls():
    history = fit(MixtureProbe(Real((5,))), Rows(rows()), tolerance=1e-6)
    values = [-row["loss"] for row in history.rows]
    assert history.stopped_because == "tolerance"
    assert all(b - a > -1e-12 for a, b in pairwise(values))
    assert values[-1] - values[-2] < 1e-6 <= values[-2] - values[-3]
    assert history.best == {"step": history.steps, "valid": history.rows[-1]["valid"]}


def test_em_ends_by_its_familys_own_rule_and_is_validated_then():
    for valid, limit, reason in ((60, 50, "tolerance"), (0, 50, "tolerance"), (60, 3, "iterations")):
        model = GMM(Real((5,)), components=2, starts=1, tol=1e-5, max_iter=limit)
        history = fit(model, Rows(rows(), valid=valid))
        assert history.stopped_because == reason
        assert history.steps == (3 if limit == 3 else model.progress[0])
        assert [row["step"] for row in history.rows] == [*range(1, history.steps + 1), *[history.steps] * (valid > 0)]
        assert bool(history.notes) == (reason == "iterations")
        if valid:
            truth = -model.log_likelihood(rows()[:60]).value.mean().item()
            assert history.best["valid"] == pytest.approx(truth, rel=1e-12)


def test_em_that_did_not_converge_says_so():
    history = fit(MixtureProbe(Real((5,))), rows(), steps=2, tolerance=0.0)
    assert (history.steps, history.stopped_because) == (2, "steps")
    assert "before its gain fell below the tolerance" in history.notes[0]


def test_closed_form_is_one_step():
    model, x = MeanProbe(Real((5,))), rows()
    history = fit(model, Rows(x))
    assert (history.steps, history.stopped_because) == (1, "closed form")
    assert torch.equal(model.mean, x[60:].double().mean(0))
    assert history.rows[0]["loss"] == pytest.approx(model.loss(x[60:]).mean().item(), rel=1e-12)
    assert history.best["valid"] == pytest.approx(model.loss(x[:60]).mean().item(), rel=1e-12)


# --- the folder --------------------------------------------------------------------------------------------------------


def test_the_folder_holds_the_weights_the_history_and_the_record(tmp_path):
    model = noisy()
    history = fit(model, Rows(rows()), **SMALL, out=tmp_path / "run", seed=9)
    saved = checkpoint.read(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), saved.model.state_dict().values()))
    assert checkpoint.read_history(tmp_path / "run") == history.rows
    assert saved.step == 60
    assert saved.info["data"] == {"name": "rows", "rows": 300}
    assert (saved.info["training"]["seed"], saved.info["training"]["steps"], saved.info["training"]["batch"]) == (9, 60, 32)
    assert saved.info["metrics"]["best"] == history.best
    assert json.dumps(history.rows)


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        fit(noisy(), rows(), **SMALL, out=tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_log_that_cannot_be_written_does_not_stop_training(tmp_path, monkeypatch):
    """Rows that failed are written again, by the last save at the latest; what then is lost is a warning."""
    real, calls, last = checkpoint.append_history, [], 6

    def append(folder, row):
        calls.append(row)
        if 3 <= len(calls) < last:
            raise LikeliError(f"{folder}: cannot be written: No space left on device")
        real(folder, row)

    monkeypatch.setattr(checkpoint, "append_history", append)
    history = fit(noisy(), rows(), steps=10, batch=32, log_every=1, out=tmp_path / "run")
    assert (history.exit_code, history.warnings) == (0, [])
    assert checkpoint.read_history(tmp_path / "run") == history.rows  # the rows that failed were written later
    assert len(history.rows) == 10
    calls, last = [], 100
    history = fit(noisy(), rows(), steps=10, batch=32, log_every=1, out=tmp_path / "full")
    assert history.exit_code == 3
    assert len(history.warnings) == 1
    assert "No space left" in history.warnings[0]


def test_a_checkpoint_that_cannot_be_written_is_a_warning_on_the_way_and_an_error_at_the_end(tmp_path, monkeypatch):
    real, failing = checkpoint.save, [3, 4, 5]

    def save(model, folder, *, state, **rest):
        if state["step"] in failing:
            raise LikeliError(f"{folder}: cannot be written: No space left on device")
        return real(model, folder, state=state, **rest)

    monkeypatch.setattr(checkpoint, "save", save)
    history = fit(noisy(), rows(), steps=8, batch=32, out=tmp_path / "run", checkpoint_every=0.0)
    assert history.exit_code == 3
    assert "step 3 was not written" in history.warnings[0]
    assert checkpoint.read(tmp_path / "run").step == 8
    failing[:] = [8]
    with pytest.raises(LikeliError, match="No space left"):
        fit(noisy(), rows(), steps=8, batch=32, out=tmp_path / "other", checkpoint_every=0.0)
    assert checkpoint.read(tmp_path / "other").step == 7


# --- bad input, before any work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"data": torch.zeros(1, 5)}, "x: got 1 row; need at least 2"),
        ({"data": torch.zeros(0, 5)}, "x: got 0 rows; need at least 2"),
        ({"data": torch.zeros(9, 4)}, "x: expected shape (rows, 5), got shape (9, 4)"),
        ({"data": [[0.0, 1.0, math.nan, 0.0, 0.0]] * 2}, "row 0, column 2"),
        ({"data": [["a"] * 5] * 3}, "x: expected real numbers"),
        ({"y": torch.zeros(300)}, "y: expected nothing"),
        ({"model": noisy(condition=Labels(3))}, "y: expected"),
        ({"model": noisy(condition=Labels(3)), "y": torch.zeros(7)}, "y: expected 300 rows, got 7 rows"),
        ({"model": noisy(condition=Labels(3)), "y": torch.full((300,), 3)}, "labels from 0 to 2"),
        ({"steps": 0}, "steps: expected"),
        ({"steps": 5, "minutes": 1}, "got both"),
        ({"lr": -1.0}, "train.lr: expected"),
        ({"leraning_rate": 1.0}, "train.leraning_rate: unknown setting"),
        ({"patence": 3}, "did you mean patience?"),
        ({"seed": 2**70}, "seed: expected"),
        ({"resume": True}, "out: expected the folder to resume from"),
        ({"out": "/dev/null/run"}, "/dev/null"),
        ({"device": "cuda"} if not torch.cuda.is_available() else {"device": "tpu"}, "train.device: expected"),
    ],
)
def test_bad_input_is_one_line_before_any_work(change, words):
    arguments = {"model": noisy(), "data": rows()} | change
    model, data = arguments.pop("model"), arguments.pop("data")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        fit(model, data, arguments.pop("y", None), **arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in model.named_parameters())


def test_a_model_without_parameters_is_refused():
    model = noisy()
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(InputError, match="model: expected parameters to train, got none"):
        fit(model, rows(), **SMALL)


def test_too_few_training_rows_of_a_data_set():
    with pytest.raises(InputError, match="x: got 1 row; need at least 2"):
        fit(noisy(), Rows(rows()[:3], valid=2), **SMALL)


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (96, 64)])
def test_a_step_of_muon_turns_the_momentum_and_leaves_other_weights_to_adam(shape):
    """Against the singular values: they follow the scalar map, vectors stay; 1e-9 in float64.  Then two steps by hand."""
    with seeded(0, "muon", shape):
        m, x = torch.randn(shape, dtype=torch.float64), torch.randn(10, shape[1], dtype=torch.float64)
        net = torch.nn.Sequential(torch.nn.Linear(*shape[::-1]), torch.nn.Linear(shape[0], 1)).double()
    u, s, v = torch.linalg.svd(m, full_matrices=False)
    t = s / (s.norm() + 1e-7)
    for _ in range(5):
        t = 3.4445 * t - 4.7750 * t**3 + 2.0315 * t**5
    torch.testing.assert_close(orthogonal(m), (u * t) @ v, rtol=1e-9, atol=1e-9)
    assert ((t > 0.68) & (t < 1.21))[s > s.norm() / 380].all()
    peer = copy.deepcopy(net)
    descent = Descent(net.parameters(), TrainSettings(optimiser="muon", weight_decay=0.1), net)
    others = [peer[0].bias, *peer[1].parameters()]
    groups = [{"params": [p], "weight_decay": 0.1 * (p.ndim > 1)} for p in others]
    adam, momentum = torch.optim.AdamW(groups, lr=0.01, fused=True), torch.zeros(shape, dtype=torch.float64)
    for _ in range(2):
        descent.step(net(x).square().mean(), 0.01)
        adam.zero_grad()
        peer.zero_grad()
        peer(x).square().mean().backward()
        adam.step()
        w, g = peer[0].weight, peer[0].weight.grad
        momentum = 0.95 * momentum + 0.05 * g
        w.data = w * (1 - 0.001) - 0.1 * max(1, shape[0] / shape[1]) ** 0.5 * orthogonal(0.95 * momentum + 0.05 * g)
    for a, b in zip(net.parameters(), peer.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_muon_is_refused_where_it_has_nothing_to_turn():
    with pytest.raises(InputError, match=r"train\.optimiser: expected adam, since no linear layer has 64 features"):
        fit(noisy(), rows(), optimiser="muon", **SMALL)

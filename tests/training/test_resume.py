import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from crash import outcome
from probes import MixtureProbe, NoisyProbe, Rows, noisy, rows

from likeli import checkpoint
from likeli.errors import InputError, Interrupted
from likeli.random import seeded
from likeli.spaces import Real
from likeli.training import fit
from likeli.training.session import _same
from likeli.training.settings import TrainSettings, learning_rate
from torture import times

OPTIONS = {"steps": 30, "batch": 16, "validate_every": 7, "log_every": 3, "ema": 0.9, "clip": 2.0, "skip": 1.2}


def at_batch(monkeypatch, when, number=signal.SIGINT, times=1, training=True):
    """Send this process a signal in the `when`-th forward pass of training, or of validation."""
    seen = [0]

    def hook(model, u):
        seen[0] += model.training == training
        for _ in range(times if (seen[0], model.training) == (when, training) else 0):
            os.kill(os.getpid(), number)
        return u

    monkeypatch.setattr(NoisyProbe, "hook", staticmethod(hook))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "run"
    fit(noisy(), Rows(rows()), out=out, **OPTIONS)
    return outcome(out)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", [1, 7, 16, 30])
def test_stopped_at_a_step_and_resumed_equals_the_straight_run(monkeypatch, tmp_path, straight, when, number, code):
    at_batch(monkeypatch, when, number)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=f"stopped by {number.name}") as caught:
        fit(noisy(), Rows(rows()), out=tmp_path / "run", **OPTIONS)
    assert caught.value.exit_code == code
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert checkpoint.read(tmp_path / "run").step == when
    monkeypatch.undo()
    model = noisy()
    history = fit(model, Rows(rows()), out=tmp_path / "run", resume=True, **OPTIONS)
    assert outcome(tmp_path / "run") == straight
    assert [row["step"] for row in history.rows] == [1, 3, 6, 7, 9, 12, 14, 15, 18, 21, 24, 27, 28, 30]
    kept = checkpoint.load(tmp_path / "run").state_dict()
    assert all(torch.equal(kept[k], v) for k, v in model.state_dict().items())


def test_a_run_by_muon_stopped_and_resumed_equals_the_straight_one(monkeypatch, tmp_path):
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))

    def run(folder, resume=False):
        with seeded(0, "muon"):
            model = NoisyProbe(Real((64,)), 64)
        fit(model, Rows(x), out=tmp_path / folder, resume=resume, optimiser="muon", **OPTIONS)
        return model.state_dict()

    whole = run("whole")
    at_batch(monkeypatch, 16)
    with pytest.raises(Interrupted):
        run("parts")
    monkeypatch.undo()
    parts = run("parts", resume=True)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


@pytest.mark.parametrize("when", [2, 10, 31])
def test_stopped_while_validating_and_resumed_equals_the_straight_run(monkeypatch, tmp_path, straight, when):
    at_batch(monkeypatch, when, training=False)
    with pytest.raises(Interrupted):
        fit(noisy(), Rows(rows()), out=tmp_path / "run", **OPTIONS)
    assert checkpoint.read(tmp_path / "run").state["memory"]["pending"]
    monkeypatch.undo()
    fit(noisy(), Rows(rows()), out=tmp_path / "run", resume=True, **OPTIONS)
    assert outcome(tmp_path / "run") == straight


def test_a_second_signal_stops_at_once_and_the_folder_still_loads(monkeypatch, tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored, where the suite itself runs in the background
    at_batch(monkeypatch, 5, times=2)
    with pytest.raises(KeyboardInterrupt):
        fit(noisy(), rows(), out=tmp_path / "run", **OPTIONS)
    assert checkpoint.read(tmp_path / "run").step == 0
    assert signal.getsignal(signal.SIGINT) is before
    at_batch(monkeypatch, 5, signal.SIGTERM, times=2)
    with pytest.raises(SystemExit) as caught:
        fit(noisy(), rows(), **OPTIONS)
    assert caught.value.code == 143


def test_without_a_folder_an_interrupted_model_keeps_what_it_has_learned(monkeypatch):
    at_batch(monkeypatch, 20)
    model = noisy()
    with pytest.raises(Interrupted, match=r"at step 20$"):
        fit(model, rows(), **OPTIONS)
    assert not torch.equal(model.net[0].weight, noisy().net[0].weight)
    assert not any(m.training for m in model.modules())


def test_outside_the_main_thread_no_handler_is_touched():
    done = []
    thread = threading.Thread(target=lambda: done.append(fit(noisy(), rows(), **OPTIONS)))
    thread.start()
    thread.join()
    assert done[0].steps == 30


def test_a_finished_run_says_so_and_is_returned(tmp_path):
    first = fit(noisy(), Rows(rows()), out=tmp_path / "run", **OPTIONS)
    model = noisy()
    again = fit(model, Rows(rows()), out=tmp_path / "run", resume=True, **OPTIONS)
    assert "already finished after 30 steps" in again.notes[0]
    assert (again.rows, again.best, again.stopped_because, again.seconds) == (first.rows, first.best, "steps", first.seconds)
    kept = checkpoint.load(tmp_path / "run").state_dict()
    assert all(torch.equal(kept[k], v) for k, v in model.state_dict().items())
    assert not checkpoint.read(tmp_path / "run").state_tensors


def test_resume_in_a_folder_without_a_checkpoint_starts_the_run(tmp_path, straight):
    fit(noisy(), Rows(rows()), out=tmp_path / "run", resume=True, **OPTIONS)
    assert outcome(tmp_path / "run") == straight


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr": 0.5}, "resume: expected lr 0.001, as the run was started with, got 0.5"),
        ({"steps": 29}, "resume: expected steps of at least 30, as the run was started with, got 29"),
        ({"seed": 1}, "resume: expected seed 0"),
        ({"data": rows() + 1}, "resume: expected the rows that the run was started with, got others"),
        ({"model": noisy(hidden=8)}, "resume: expected hidden 16, as the run was started with, got 8"),
        ({"model": MixtureProbe(Real((5,)))}, "resume: expected class noisy_probe"),
    ],
)
def test_resume_under_other_conditions_is_refused(monkeypatch, tmp_path, change, words):
    at_batch(monkeypatch, 4)
    with pytest.raises(Interrupted):
        fit(noisy(), rows(), out=tmp_path / "run", **OPTIONS)
    arguments = {"model": noisy(), "data": rows(), **OPTIONS, **change}
    with pytest.raises(InputError) as caught:
        fit(arguments.pop("model"), arguments.pop("data"), out=tmp_path / "run", resume=True, **arguments)
    assert words in str(caught.value)
    fit(noisy(), rows(), out=tmp_path / "run", resume=True, checkpoint_every=1.0, **OPTIONS)  # how often it is saved may change


def test_overwrite_replaces_a_run(tmp_path, straight):
    fit(noisy(), rows(), steps=3, out=tmp_path / "run")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        fit(noisy(), Rows(rows()), out=tmp_path / "run", **OPTIONS)
    fit(noisy(), Rows(rows()), out=tmp_path / "run", overwrite=True, **OPTIONS)
    assert outcome(tmp_path / "run") == straight


def test_minutes_include_the_time_before_a_resume(monkeypatch, tmp_path):
    now, seen = [0.0], [0]

    class Time:
        perf_counter = staticmethod(lambda: 1000.0 + now[0])

    def hook(model, u):
        now[0] += 1.0
        seen[0] += 1
        if seen[0] == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return u

    monkeypatch.setattr("likeli.training.run.time", Time)
    monkeypatch.setattr(NoisyProbe, "hook", staticmethod(hook))
    with pytest.raises(Interrupted):
        fit(noisy(), rows(), minutes=1, batch=32, log_every=1, out=tmp_path / "run")
    now[0] += 5000  # a long lunch
    history = fit(noisy(), rows(), minutes=1, batch=32, log_every=1, out=tmp_path / "run", resume=True)
    assert history.steps == 61
    expected = [learning_rate(k / 60, TrainSettings()) for k in range(61)]  # the first step is not counted
    assert [row["lr"] for row in history.rows] == pytest.approx(expected, rel=1e-12)


# --- killed ------------------------------------------------------------------------------------------------------------


def hunt(count, *jobs):
    """Run crash.py in memory-backed storage where there is some: what is tested is the order of events, not the disk."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=place) as folder:
        script = str(Path(__file__).with_name("crash.py"))
        done = subprocess.run([sys.executable, script, str(count), "1", folder, *jobs], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def check(report, count):
    for job, seen in report.items():
        name = job.split(":")[1]
        expected = {"SIGKILL": {-9, 0}, "SIGINT": {130, 0}, "SIGTERM": {143, 0}}[name]
        assert set(seen["codes"]) <= expected
        assert seen["sent"] >= count
        assert seen["slowest"] < 2


def test_kills_and_signals_at_random_instants_cost_nothing():
    check(hunt(1, "sgd:SIGKILL", "em:SIGKILL", "sgd:SIGINT", "sgd:SIGTERM"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["sgd:SIGKILL", "vae:SIGKILL", "gmm:SIGKILL", "vae:SIGINT", "gmm:SIGTERM"])
def test_fifty_of_them(job, record_property):
    check(hunt(times(50, 1000), job), times(50, 1000))
    record_property("figure", f"{job}: {times(50, 1000)} times at random instants: resumed losses and weights equal")


@pytest.mark.parametrize("finished", [True, False])
def test_a_larger_budget_goes_on_from_where_the_smaller_one_was(monkeypatch, tmp_path, finished):
    """60 steps after 30: the history goes on, the rate is that of 60 steps, and the best weights are never worse."""
    if finished:
        first = fit(noisy(), Rows(rows()), out=tmp_path / "run", **OPTIONS)
    else:
        at_batch(monkeypatch, 12)
        with pytest.raises(Interrupted):
            fit(noisy(), Rows(rows()), out=tmp_path / "run", **OPTIONS)
        monkeypatch.undo()
    model = noisy()
    longer = fit(model, Rows(rows()), out=tmp_path / "run", resume=True, **OPTIONS | {"steps": 60})
    assert longer.steps == 60 and longer.stopped_because == "steps"
    assert [row["step"] for row in longer.rows] == sorted({row["step"] for row in longer.rows})
    assert longer.rows[-1]["lr"] == pytest.approx(learning_rate(59.5 / 60, TrainSettings()), rel=1e-12)
    if finished:
        assert longer.best["valid"] <= first.best["valid"]
        assert any("went on after 30 steps" in note for note in longer.notes)
    again = fit(noisy(), Rows(rows()), out=tmp_path / "run", resume=True, **OPTIONS | {"steps": 60})
    assert again.steps == 60 and "already finished" in again.notes[0]


def test_a_choice_that_was_left_open_agrees_with_what_is_now_chosen_by_name():
    named = {"class": "denoiser_backbone", "hidden": [8]}
    open_ = {**named, "network": "auto"}
    for before, now, same in (
        (None, {**named, "network": "mlp"}, True),
        (open_, {**named, "network": "mlp"}, True),
        ({**open_, "network": "transformer"}, {**named, "network": "dit"}, False),
        (open_, {**named, "network": "mlp", "hidden": [16]}, False),
    ):
        theirs, ours = {"model": {"backbone": before}}, {"model": {"backbone": now}}
        with nullcontext() if same else pytest.raises(InputError, match="resume: expected backbone"):
            _same(ours, theirs)
    with pytest.raises(InputError, match="resume: expected optimiser adam, as the run was started with, got muon"):
        _same({"optimiser": "muon"}, {})

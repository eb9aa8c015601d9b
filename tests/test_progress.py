"""How far work has come is said on a terminal by a bar and elsewhere by a line at a stated interval."""

import io
import math

import pytest
import torch

import likeli
from likeli import progress
from likeli.cli import main
from likeli.errors import InputError
from likeli.evaluation.likelihood import paired
from likeli.evaluation.one_model import BoundAndFlow
from likeli.progress import Gauge
from likeli.training import History


class Clock:
    """A clock that ticks ten seconds whenever it is looked at."""

    now = 0.0

    def monotonic(self):
        self.now += 10.0
        return self.now


@pytest.fixture
def log(monkeypatch, capsys):
    """What a standard error that is no terminal has got, with ten seconds between looks at the clock."""
    monkeypatch.setattr(progress, "time", Clock())
    return lambda: capsys.readouterr().err


def test_a_line_every_thirty_seconds_the_first_says_so(log):
    gauge = Gauge(True, "vae", 8, done=1, unit="steps")
    for step in range(2, 9):
        gauge.advance(step, lambda: "loss 1.250")
    gauge.close()
    lines = ["4 of 8 steps after 30 s, loss 1.250 (a line every 30 s)", "7 of 8 steps after 60 s, loss 1.250"]
    assert log().splitlines() == [f"likeli: vae: {line}" for line in lines]


def test_silence_is_kept_and_a_closed_file_stops_nothing(log, monkeypatch):
    Gauge(False, "vae", 8).advance(8)
    assert log() == ""
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    gauge = Gauge(True, "vae", 8)
    file.close()
    for step in range(8):
        gauge.advance(step)


def test_training_and_evaluation_say_how_far_they_are(log):
    data = likeli.load_data("gaussian")
    model = likeli.VAE(data.space, 1, likeli.CoderBackbone((4,)))
    history = likeli.fit(model, data, steps=12, log_every=1)
    likeli.evaluate(model, data, batch=64, samples=1)
    first, *_, last = log().splitlines()
    assert first.startswith("likeli: vae: 3 of 12 steps after 30 s, loss ")
    assert first.endswith("bits/dim (a line every 30 s)")
    assert last.startswith("likeli: evaluating vae: ")
    assert last.split(" rows")[0].endswith(f"of {len(data.test)}")
    best = history.best
    bits = best["valid"] / (data.space.dimensions * math.log(2))
    end = f"best validation loss {best['valid']:.2f} nats, {bits:.3f} bits/dim, at step {best['step']}"
    assert str(history) == f"12 steps in {history.seconds:.1f} s, stopped since its steps are taken; {end}"


def test_the_last_line_names_no_unit_where_there_is_none():
    rows = [{"step": 3, "loss": 0.12345}]
    assert str(History(rows, None, "minutes", 60.0, 3)).endswith("its minutes are over; last loss 0.1235 (no unit), at step 3")
    assert str(History(steps=1, stopped_because="closed form")) == "1 steps in 0.0 s, stopped since there is a closed form"


def test_the_last_line_is_printed_once(tmp_path, capsys):
    assert main(["fit", "gaussian", "--model", "ppca", "--out", str(tmp_path / "x")]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.count("closed form") == 1


def test_fewer_rows_are_a_fair_draw_and_their_numbers_are_the_same():
    data = likeli.load_data("gaussian")
    model = likeli.PPCA(data.space, 1)
    likeli.fit(model, data)
    x, _ = data.split("test")
    everything, some = likeli.evaluate(model, x), likeli.evaluate(model, x, rows=50, seed=3)
    assert torch.equal(everything.values, model.log_likelihood(x).value)
    assert torch.equal(some.values, everything.values[some.index])
    assert len(some.index.unique()) == some.examples == 50
    assert not torch.equal(some.index, torch.arange(50))
    assert (some.nats, some.stderr) == (some.values.mean().item(), pytest.approx(some.values.std().item() / math.sqrt(50)))
    assert f"50 of {len(x)} rows were looked at, drawn by the seed" in some.notes
    assert not any("looked at" in note for note in everything.notes)
    assert likeli.evaluate(model, x, rows=10**9).examples == len(x)


def test_time_that_is_up_ends_an_evaluation_with_what_it_has():
    data = likeli.load_data("gaussian")
    model = likeli.PPCA(data.space, 1)
    likeli.fit(model, data)
    found = likeli.evaluate(model, data, minutes=1e-9)
    assert found.examples == 64
    assert torch.equal(found.values, model.log_likelihood(data.split("test")[0]).value[found.index])
    for wrong in ({"minutes": 0}, {"rows": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            likeli.evaluate(model, data, **wrong)


def test_the_numbers_of_rows_are_written(tmp_path):
    folder = str(tmp_path / "x")
    assert main(["fit", "gaussian", "--model", "ppca", "--quiet", "--out", folder]) == 0
    assert main(["evaluate", folder, "--rows", "9", "--out", str(tmp_path / "p.csv")]) == 0
    assert main(["evaluate", folder, "--out", str(tmp_path / "p.csv")]) == 2  # nothing is written over
    header, *rows = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "row,nats,stderr,knows,measure"
    found = likeli.evaluate(likeli.load(folder), likeli.load_data("gaussian"), rows=9)
    assert [float(r.split(",")[1]) for r in rows] == found.values.tolist()
    assert [int(r.split(",")[0]) for r in rows] == found.index.tolist()


def test_a_paired_difference_leaves_the_spread_of_the_rows_out():
    spread, noise = 100 * torch.randn(400, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 1, 400)
    kind = (likeli.Knows.EXACT, "density")
    gap, error = paired(likeli.LogLikelihood(spread + 0.3 + noise, *kind), likeli.LogLikelihood(spread, *kind))
    assert gap == pytest.approx(0.3, abs=1e-5)
    assert error == pytest.approx(noise.std().item() / 20, rel=1e-4)


@pytest.mark.parametrize(
    "gap, doubt, order",
    [(0.5, 0.0, "below"), (-0.5, 0.0, "above"), (0.19, 0.0, "cannot tell"), (-0.19, 0.0, "cannot tell"),
     (0.5, 0.4, "cannot tell"), (math.nan, 0.0, "cannot tell")],
)  # fmt: skip
def test_an_order_is_claimed_from_two_standard_errors_and_the_doubt_on(gap, doubt, order):
    assert BoundAndFlow(None, None, gap, 0.1, doubt).order == order

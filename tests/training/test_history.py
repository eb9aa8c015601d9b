import io
import math

from probes import NoisyProbe, noisy, rows

from likeli.contract import Knows
from likeli.training import History, fit
from likeli.training.history import Journal


class Terminal(io.StringIO):
    """A stderr that says it is a terminal, and may be closed at any time."""

    broken = False

    def isatty(self):
        return True

    def write(self, text):
        if self.broken:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


def install(monkeypatch, kind):
    terminal = kind()
    monkeypatch.setattr("sys.stderr", terminal)  # in the test itself: pytest puts its own there between phases
    return terminal


def test_the_bar_is_for_terminals_or_for_who_asks(monkeypatch):
    terminal = install(monkeypatch, Terminal)
    fit(noisy(), rows(), steps=20, batch=16, progress=False)
    assert terminal.getvalue() == ""
    fit(noisy(), rows(), steps=20, batch=16)
    assert "noisy_probe" in terminal.getvalue()
    file = install(monkeypatch, io.StringIO)
    fit(noisy(), rows(), steps=20, batch=16)
    assert file.getvalue() == ""
    fit(noisy(), rows(), steps=20, batch=16, progress="always")
    assert "noisy_probe" in file.getvalue()


def test_a_terminal_that_goes_away_does_not_stop_training(monkeypatch):
    terminal = install(monkeypatch, Terminal)

    def leave(model, u):
        terminal.broken = True
        return u

    monkeypatch.setattr(NoisyProbe, "hook", staticmethod(leave))
    monkeypatch.setattr("likeli.progress._Bar.mininterval", 0, raising=False)
    assert fit(noisy(), rows(), steps=30, batch=16).steps == 30
    assert "noisy_probe" in terminal.getvalue()


def test_bits_per_dimension_are_shown_for_a_loss_in_nats_only(monkeypatch):
    nats, plain = Journal(None, 5), Journal(None, None)
    nats.write({"loss": 5.0, "valid": 5 * math.log(2) * 2})
    nats.write({"loss": 5 * math.log(2) * 1.25})
    plain.write({"loss": 1.5})
    assert nats.words() == "loss 1.250, valid 2.000 bits/dim"
    assert plain.words() == "loss 1.500"
    assert noisy().loss_in_nats
    monkeypatch.setattr(NoisyProbe, "knows", Knows.NOTHING)
    assert not noisy().loss_in_nats
    monkeypatch.setattr(NoisyProbe, "knows", Knows.LOWER_BOUND)
    monkeypatch.setattr(NoisyProbe, "loss_in_nats", False, raising=False)
    assert not noisy().loss_in_nats


def test_exit_code_tells_of_outputs_that_were_not_written():
    assert History().exit_code == 0
    assert History(warnings=["history.jsonl: full"]).exit_code == 3

"""A contest has a row for every family, whatever happens to it."""

import os
import signal

import pytest

from likeli.cli.contest import Contest, Job, _result, caveats, exit_code, ranked
from likeli.evaluation.likelihood import ROW

JOBS = [Job(name, (), f"nowhere/{name}") for name in ("a", "b")]
FOUND = dict.fromkeys(ROW) | {"model": "a", "knows": "exact", "measure": "mass", "nats": -3.0, "notes": ["n"]}


def contest(monkeypatch, answers, **options):
    """A contest whose processes are functions: (verb, folder) → what they print."""
    call = Contest._call

    def fake(self, verb, *arguments):
        folder = arguments[arguments.index("--out") + 1] if verb == "fit" else arguments[0]
        return call(self, verb, *arguments) if self.stopped else answers(verb, folder)

    monkeypatch.setattr(Contest, "_call", fake)
    return Contest(JOBS, 1, lambda line: None, **options)


def fitted(verb, folder):
    return {"steps": 5, "seconds": 1.5, "notes": ["m"]} if verb == "fit" else dict(FOUND)


def test_seconds_are_the_fits_and_notes_are_everybodys(monkeypatch):
    row = contest(monkeypatch, fitted).rows()[0]
    assert row["seconds"] == 1.5
    assert row["notes"] == ["n", "m"]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_row_for_every_family_and_the_handlers_as_they_were(monkeypatch, number, code):
    def answers(verb, folder):
        os.kill(os.getpid(), number)
        while not game.stopped:  # the handler runs in the main thread
            pass
        return {"error": f"stopped; saved in {folder}", "exit_code": code}

    before = signal.getsignal(number)
    game = contest(monkeypatch, answers, keep=False)
    first, second = game.rows()
    assert first["error"] == "stopped"
    assert second["error"] == "not started: interrupted"
    assert exit_code(game, [first, second]) == code
    assert signal.getsignal(number) is before


def test_failed_only_if_every_row_failed(monkeypatch):
    some = contest(monkeypatch, lambda verb, folder: {"error": "no"} if folder.endswith("a") else fitted(verb, folder))
    rows = some.rows()
    assert exit_code(some, rows) == 0
    assert [r["nats"] for r in ranked(rows)] == [-3.0, None]
    assert exit_code(some, rows[:1]) == 1


def test_a_process_that_says_nothing_is_quoted():
    assert _result(-9, "", "a\nlast words\n") == {"error": "the process ended with code -9: last words", "exit_code": -9}
    assert _result(3, '{"steps": 1}', "") == {"steps": 1}
    assert _result(2, '{"error": "bad"}', "") == {"error": "bad"}
    assert _result(1, "{}", "") == {"error": "exit code 1"}


def test_kinds_and_measures_are_never_mixed_in_silence():
    exact, bound = dict(FOUND), FOUND | {"knows": "lower bound"}
    assert caveats([exact]) == []
    assert any("under-state" in n for n in caveats([bound]))
    assert any("different kinds (exact, lower bound)" in n for n in caveats([exact, bound]))
    assert any("cannot be compared" in n for n in caveats([exact, FOUND | {"measure": "density"}]))

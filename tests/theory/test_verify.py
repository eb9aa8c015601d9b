"""The identities hold here, and the engine tells a false one."""

import math

import pytest

from likeli.errors import InputError
from likeli.theory import check as verify
from likeli.theory.check import Check, identity

CHECKS = verify.checks()


@pytest.mark.parametrize("check", [c for c in CHECKS if not c.slow], ids=lambda c: c.id)
def test_identity(check):
    result = check.run()
    assert result.passed, f"{check.title}: error {result.error:.3g}, tolerance {result.tolerance:.3g} {result.note}"


@pytest.mark.slow
@pytest.mark.parametrize("check", [c for c in CHECKS if c.slow], ids=lambda c: c.id)
def test_slow_identity(check):
    result = check.run()
    assert result.passed, f"{check.title}: error {result.error:.3g}, tolerance {result.tolerance:.3g} {result.note}"


def test_every_check_names_rows_and_says_something():
    for check in CHECKS:
        assert all(row[0] in "RIBMNE" and row[1:].isdigit() for row in check.rows)
        assert len(check.title) > 10
        assert check.tolerance >= 0
    assert len({c.id for c in CHECKS}) == len(CHECKS)


def test_every_row_of_the_ladder_has_a_check():
    covered = {row for c in CHECKS for row in c.rows}
    wanted = {f"R{i}" for i in (*range(1, 87), 102, 104, 105, 106, 107, 108)} | {f"I{i}" for i in range(1, 31)}
    assert not wanted - covered


def test_only_selects_by_row_and_by_id():
    by_row = {r.id for r in verify.run(["I1"])}
    assert by_row == {c.id for c in CHECKS if "I1" in c.rows}
    assert [r.id for r in verify.run(["surprise-adds"])] == ["surprise-adds"]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean surprise-adds"):
        verify.run(["surprise-add"])


@pytest.mark.parametrize("error", [math.nan, math.inf, 2e-3])
def test_a_false_identity_fails(error):
    result = Check("x", ("R1",), "nothing", 1e-3, lambda: error).run()
    assert not result.passed
    assert result.seconds >= 0


def test_an_exception_is_a_failure_with_its_message():
    result = Check("x", ("R1",), "nothing", 1e-3, lambda: 1 / 0).run()
    assert not result.passed
    assert "ZeroDivisionError" in result.note


def test_two_checks_cannot_share_a_name():
    def surprise_adds():
        return 0.0

    with pytest.raises(TypeError, match="surprise-adds"):
        identity("R3", title="again", tolerance=0)(surprise_adds)

"""A run names a file of its user's, or a stranger's choice: the seal tells which."""

import os
import stat

import pytest

from likeli import checkpoint as ck

ABOUT = {"source": "table.csv", "seed": 0, "fractions": [0.8, 0.1, 0.1], "rows": 3}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_ones_own_description_holds_and_any_change_of_it_does_not():
    mine = ck.sealed(ABOUT)
    assert ck.is_sealed(mine)
    assert not ck.is_sealed(ABOUT)
    for name in ABOUT:
        assert not ck.is_sealed(mine | {name: "other"})
    assert not ck.is_sealed(mine | {"more": 1})
    for forged in ("", "0" * 64, None, 3, mine["seal"][:-1]):
        assert not ck.is_sealed(mine | {"seal": forged})


def test_another_users_description_does_not_hold(tmp_path, monkeypatch):
    theirs = ck.sealed(ABOUT)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not ck.is_sealed(theirs)
    assert ck.is_sealed(ck.sealed(ABOUT))


def test_the_key_is_the_users_alone(home):
    mine = ck.sealed(ABOUT)
    key = home / "state" / "likeli" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert os.listdir(key.parent) == ["key"]
    key.chmod(0o644)  # others may have read it
    assert not ck.is_sealed(mine)


def test_without_a_home_the_key_stays_with_temporary_files(home, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    mine = ck.sealed(ABOUT)
    assert ck.is_sealed(mine)
    assert (home / f"likeli-{os.getuid()}" / "key").exists()
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    assert "seal" not in ck.sealed(ABOUT)

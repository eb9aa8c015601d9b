"""Who may write where: preparing, replacing, locking, history."""

import errno
import json
import os
import struct
import subprocess
import sys

import pytest
from tiny_models import fill, same

from likeli import checkpoint as ck
from likeli.checkpoint import disk as locking
from likeli.errors import CheckpointError, InputError, LikeliError


def tree(folder):
    """Every path below with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def steps(folder):
    return [row["step"] for row in ck.read_history(folder)]


def test_new_and_empty_folders_are_prepared(tmp_path):
    assert ck.prepare_folder(tmp_path / "a/b") is False
    (tmp_path / "c").mkdir()
    assert ck.prepare_folder(tmp_path / "c") is False
    assert tree(tmp_path / "a/b") == tree(tmp_path / "c") == {".lock": b""}


def test_folder_in_use_is_refused_and_not_touched(tmp_path, model):
    ck.save(model, tmp_path / "run")
    ck.save_pretrained(model, tmp_path / "flat")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_text("cat")
    (tmp_path / "file").write_text("text")
    before = tree(tmp_path)
    for name, expected in (
        ("run", "new or empty"),
        ("flat", "new or empty"),
        ("photos", r"cat\.png"),
        ("file", "file"),
        ("file/x", "x"),
    ):
        for act in (ck.prepare_folder, lambda f: ck.save(model, f), lambda f: ck.save_pretrained(model, f)):
            with pytest.raises(InputError, match=expected):
                act(tmp_path / name)
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError, match="single model"):
            ck.prepare_folder(tmp_path / "flat", **options)
    with pytest.raises(InputError, match="a run to resume"):
        ck.prepare_folder(tmp_path / "photos", resume=True)
    with pytest.raises(InputError, match="both"):
        ck.prepare_folder(tmp_path / "run", overwrite=True, resume=True)
    with pytest.raises(InputError, match="read"):
        ck.prepare_folder("a\0b")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("cause", [errno.EACCES, errno.EROFS])
def test_unwritable_folder_is_bad_input(tmp_path, broken_os, cause):
    with broken_os(lambda name, k: cause if name == "mkdir" else None), pytest.raises(InputError, match=os.strerror(cause)):
        ck.prepare_folder(tmp_path / "x")


def test_overwriting_keeps_the_old_run_until_the_new_one_has_saved(tmp_path, model):
    run = tmp_path / "x"
    with ck.lock(run):
        ck.append_history(run, {"step": 1})
        ck.save(fill(model, 1), run)
        ck.save(fill(model, 2), run)
    (run / "notes.txt").write_text("mine")
    ck.prepare_folder(run, overwrite=True)
    with ck.lock(run):
        ck.append_history(run, {"step": 100})
        assert steps(run) == [100]
    assert same(ck.load(run).state_dict(), fill(model, 2).state_dict())
    assert steps(run) == [1]
    with ck.lock(run):
        ck.save(fill(model, 3), run)
        ck.append_history(run, {"step": 101})
    assert same(ck.load(run).state_dict(), fill(model, 3).state_dict())
    assert steps(run) == [100, 101]
    assert sorted(os.listdir(run)) == [".lock", "checkpoints", "history.jsonl", "notes.txt"]
    assert os.listdir(run / "checkpoints") == ["00000003"]


def test_a_replacement_that_never_saved_is_dropped_at_the_next_start(tmp_path, model):
    run = tmp_path / "x"
    with ck.lock(run):
        ck.append_history(run, {"step": 1})
        ck.save(model, run)
    ck.prepare_folder(run, overwrite=True)
    ck.append_history(run, {"step": 100})
    assert ck.prepare_folder(run, resume=True) is True
    assert steps(run) == [1]
    assert same(ck.load(run).state_dict(), model.state_dict())


def test_saving_over_a_run_replaces_it_only_when_asked(tmp_path, model):
    ck.save(fill(model, 1), tmp_path / "x", state={"step": 1})
    ck.save(fill(model, 2), tmp_path / "x", overwrite=True)
    assert os.listdir(tmp_path / "x/checkpoints") == ["00000002"]
    assert same(ck.load(tmp_path / "x").state_dict(), fill(model, 2).state_dict())


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, model):
    run = tmp_path / "x"
    ck.prepare_folder(run)
    ck.append_history(run, {"step": 1})
    with pytest.raises(CheckpointError, match="saved run or model"):
        ck.load(run)
    assert ck.prepare_folder(run, resume=True) is False
    assert steps(run) == []


def test_leftovers_are_removed_at_the_next_start(tmp_path, model):
    run = tmp_path / "x"
    ck.save(model, run)
    (run / "checkpoints/.partial").mkdir()
    (run / "checkpoints/.partial/model.safetensors").write_text("half")
    (run / ".lock").write_text("process 1 on nowhere")
    with pytest.warns(UserWarning, match="process 1 on nowhere"):
        ck.prepare_folder(run, resume=True)
    assert sorted(os.listdir(run)) == [".lock", "checkpoints"]
    assert os.listdir(run / "checkpoints") == ["00000001"]


def test_a_link_in_place_of_the_temporary_folder_is_removed_not_followed(tmp_path, model):
    ck.save(model, tmp_path / "x")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/a").write_text("a")
    (tmp_path / "x/checkpoints/.partial").symlink_to(tmp_path / "precious")
    ck.prepare_folder(tmp_path / "x", resume=True)
    assert (tmp_path / "precious/a").read_text() == "a"
    assert os.listdir(tmp_path / "x/checkpoints") == ["00000001"]


# --- lock ---------------------------------------------------------------------------------------------------------------

HOLD = """import sys
from likeli.checkpoint.disk import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_writer_is_refused_by_name_and_a_dead_ones_lock_is_taken_over(tmp_path, model):
    run = tmp_path / "x"
    other = subprocess.Popen([sys.executable, "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        for act in (lambda: ck.lock(run).__enter__(), lambda: ck.save(model, run), lambda: ck.prepare_folder(run, resume=True)):
            with pytest.raises(InputError, match=rf"process {other.pid} on {os.uname().nodename}"):
                act()
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    assert (run / ".lock").read_text() == f"process {other.pid} on {os.uname().nodename}"
    ck.save(model, run)
    assert (run / ".lock").read_text() == ""


def test_a_second_lock_in_the_same_process_is_refused(tmp_path):
    with ck.lock(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()}"), ck.lock(tmp_path):
        pass
    with ck.lock(tmp_path):
        assert locking.held(tmp_path)
    assert not locking.held(tmp_path)


def test_errors_of_the_locked_block_are_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), ck.lock(tmp_path):
        os.stat(tmp_path / "nowhere")
    assert os.listdir(tmp_path) == [".lock"]


# --- history ------------------------------------------------------------------------------------------------------------


def test_losses_keep_their_bits(tmp_path):
    losses = [0.1 + 0.2, 1 / 3, 5e-324, -0.0, float("nan"), float("inf"), -1e308]
    for loss in losses:
        ck.append_history(tmp_path, {"loss": loss, "note": "NaN"})
    rows = ck.read_history(tmp_path)
    assert [struct.pack("d", r["loss"]) for r in rows] == [struct.pack("d", v) for v in losses]
    assert {r["note"] for r in rows} == {"NaN"}
    for line in (tmp_path / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda text: pytest.fail(text))


def test_a_torn_last_line_is_dropped(tmp_path):
    for step in (1, 2, 3):
        ck.append_history(tmp_path, {"step": step})
    data = (tmp_path / "history.jsonl").read_bytes()
    for cut in range(len(data)):
        (tmp_path / "history.jsonl").write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        assert steps(tmp_path) == [1, 2, 3][:whole]
        ck.append_history(tmp_path, {"step": 9})
        assert steps(tmp_path) == [1, 2, 3][:whole] + [9]
    (tmp_path / "history.jsonl").write_bytes(data + b"\0" * 3_000_000)
    ck.truncate_history(tmp_path, 3)
    assert (tmp_path / "history.jsonl").read_bytes() == data


def test_history_is_cut_to_the_rows_of_a_checkpoint(tmp_path):
    for step in range(5):
        ck.append_history(tmp_path, {"step": step})
    ck.truncate_history(tmp_path, 5)
    ck.truncate_history(tmp_path, 2)
    assert steps(tmp_path) == [0, 1]
    with pytest.raises(CheckpointError, match="at least 3 rows, got 2"):
        ck.truncate_history(tmp_path, 3)
    ck.truncate_history(tmp_path, 0)
    assert steps(tmp_path) == []


@pytest.mark.parametrize(
    "text, fault", [(b'{"a":1}\n{"a":NaN}\n', "line 2"), (b"[]\n", "object"), (b"\n", "line 1"), (b'{"a":1,"a":1}\n', "line 1")]
)
def test_a_damaged_history_is_refused_by_line(tmp_path, text, fault):
    (tmp_path / "history.jsonl").write_bytes(text)
    with pytest.raises(CheckpointError, match=fault):
        ck.read_history(tmp_path)


def test_a_history_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "real").write_text('{"a":1}\n')
    (tmp_path / "history.jsonl").symlink_to(tmp_path / "real")
    for act in (ck.read_history, lambda f: ck.append_history(f, {}), lambda f: ck.truncate_history(f, 0)):
        with pytest.raises(LikeliError):
            act(tmp_path)
    (tmp_path / "history.jsonl").unlink()
    os.mkfifo(tmp_path / "history.jsonl")
    for act in (ck.read_history, lambda f: ck.append_history(f, {})):
        with pytest.raises(LikeliError, match=r"regular file|No such device"):
            act(tmp_path)
    assert (tmp_path / "real").read_text() == '{"a":1}\n'

"""Processes that share rows do what one does: the same noise for each row, the same losses, sums, resumes and refusals."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shared_runs
import torch

import likeli
from families import FAMILIES, STOCHASTIC, assert_parts_are_the_whole, examples
from likeli import processes
from likeli.cli import main
from likeli.cli.ending import stopped_by
from likeli.errors import Unsupported
from likeli.random import BatchPart, every_row_of, repeated_rows, seeded
from likeli.spaces import Real, Tokens
from torture import times

HERE = Path(__file__).parent


# --- in one process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [k for k, c in sorted(FAMILIES.items()) if c.strategy in STOCHASTIC])
def test_a_part_of_a_batch_has_the_noise_of_its_rows(family):
    space = Tokens(6, 5) if "tokens" in FAMILIES[family].kinds and "real" not in FAMILIES[family].kinds else Real((6,))
    with seeded(0):
        model = FAMILIES[family](space)
    assert_parts_are_the_whole(model, examples(space, 10))


def test_draws_and_dropout_are_cut_out_of_the_whole_batch():
    x = torch.randn(7, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    draws = [
        lambda x: torch.rand(len(x), 2),
        lambda x: torch.randn((len(x), 3), dtype=torch.float64),
        torch.randn_like,
        torch.nn.Dropout(0.5),
        torch.nn.Dropout2d(0.5),
        torch.nn.functional.dropout,
        lambda x: torch.rand(()).expand(len(x)),  # no draw for each row: the same for all
    ]
    for drawn in draws:
        with seeded(2):
            whole = [drawn(x), torch.rand(2)]
        parts = []
        for rows in (slice(0, 4), slice(4, 7)):
            with seeded(2), BatchPart(rows.start, rows.stop - rows.start, 7):
                parts.append([drawn(x[rows]), torch.rand(2)])
        assert torch.cat([p[0] for p in parts]).equal(whole[0])
        assert all(p[1].equal(whole[1]) for p in parts)  # the generator has come equally far
    with BatchPart(0, 4, 7), pytest.raises(Unsupported, match="multinomial"):
        torch.multinomial(torch.ones(4, 2), 1)


def test_repeated_and_strided_rows_keep_their_noise():
    with seeded(3):
        whole = torch.rand(14)
    with seeded(3), BatchPart(2, 3, 7), repeated_rows(2):
        assert torch.rand(6).equal(whole[4:10])
    places = torch.arange(7)
    for start in range(5):
        with seeded(3), every_row_of(7, start, 5) as rows:
            whole = dict(zip(places[rows].tolist(), torch.rand(len(rows)).tolist()))
        shared = {}
        for first, after in ((0, 1), (1, 6), (6, 7)):
            with seeded(3), BatchPart(first, after - first, 7), every_row_of(after - first, start, 5) as rows:
                shared |= zip(places[first:after][rows].tolist(), torch.rand(len(rows)).tolist())
        assert shared == whole


@pytest.mark.parametrize("n, unit, count", [(10, 1, 3), (2, 1, 3), (200, 64, 3), (64, 64, 2), (0, 1, 2)])
def test_shares_are_all_rows_once_in_whole_blocks(monkeypatch, n, unit, count):
    monkeypatch.setattr(processes, "count", lambda: count)
    shares = []
    for rank in range(count):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append(processes.share(n, unit))
    assert [i for s in shares for i in range(n)[s]] == list(range(n))
    assert all(s.start % unit == 0 or s.start == n for s in shares)
    sizes = [-(-(s.stop - s.start) // unit) for s in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "words, environment, told",
    [
        (["--processes", "0"], {}, "processes: expected a whole number from 1 to"),
        (["--processes", "100000"], {}, "processes: expected a whole number from 1 to"),
        (["--processes", "two"], {}, "processes: expected an integer, got two"),
        ([], {"RANK": "0", "WORLD_SIZE": "2"}, "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT from a launcher"),
        ([], {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "below another, got 2, 2"),
        ([], {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}, "MASTER_PORT: expected a port"),
        ([], {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "no.such.invalid", "MASTER_PORT": "9"}, "a host that resolves"),
        ([], {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "taken"}, "which is taken"),
    ],
)
def test_bad_numbers_and_places_are_one_line(monkeypatch, capsys, words, environment, told):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name, value in environment.items():
            monkeypatch.setenv(name, str(taken.getsockname()[1]) if value == "taken" else value)
        assert main(["fit", "ring8", "--model", "gmm", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_a_signal_while_torch_is_being_imported_is_one_line(monkeypatch, capsys):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)

    def interrupted(command):
        raise stopped_by(signal.SIGTERM)

    monkeypatch.setattr("likeli.cli.app.one_of_several", interrupted)
    monkeypatch.delitem(sys.modules, "likeli.processes")
    monkeypatch.delattr(likeli, "processes")
    monkeypatch.setitem(sys.modules, "torch", None)  # half imported: to import it again is an error
    assert main(["fit", "ring8", "--model", "gmm"]) == 143
    assert capsys.readouterr().err == "likeli: stopped by SIGTERM\n"


# --- in two processes ---------------------------------------------------------------------------------------------------


def started(n, words, **options):
    """n processes as a launcher starts them, by the environment alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [subprocess.Popen([sys.executable, *words], env=env | {"RANK": str(i)}, **options) for i in range(n)]


def found_by_two(folder, *long):
    ranks = started(2, [str(HERE / "shared_runs.py"), str(folder), *long])
    try:
        assert [rank.wait(timeout=1400) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    return found_by_two(folder) | {"folder": f"{folder}/run-copy"}


def test_two_processes_have_the_losses_of_one(shared):
    for name, found in shared["losses"].items():
        torch.set_num_threads(1)
        alone = torch.tensor(shared_runs.losses(name), dtype=torch.float64)
        off = (torch.tensor(found, dtype=torch.float64) - alone).abs() / alone.abs()
        assert len(alone) == shared_runs.STEPS[name]
        assert off[0] < 1e-6, name
        assert off.max() < (1e-4 if name == "float32" else 1e-6), name


def test_sums_over_rows_are_those_of_one_process(shared):
    for name, found in shared["closed"].items():
        found, alone = (torch.tensor(v, dtype=torch.float64) for v in (found, shared_runs.closed(name)))
        torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-10, msg=name)


def test_numbers_and_draws_of_rows_are_those_of_one_process(shared):
    assert repr(shared["rows"]) == repr(shared_runs.by_rows())  # to the bit, and NaN is NaN


def test_a_signal_to_one_process_stops_all_and_the_resume_is_exact(shared):
    found = shared["interrupted"]
    assert found["code"] == 143
    losses, weights = found["whole"]
    assert found["resumed"] == [losses[-18:], weights]


def test_another_seed_other_rows_settings_or_folder_are_refused_before_any_work(shared):
    seed, rows, rate, batch, apart = shared["refused"]  # as process 0, which is the one that speaks, has it
    assert apart.startswith("out: expected a folder that all processes share, got ")
    assert apart.endswith("of-0/run, which process 1 does not see")
    assert seed == "seed: expected 0 in every process, as in process 0, got 1 in process 1"
    assert rows.startswith("rows of the data (sha256): expected ")
    assert rate == "lr: expected 0.001 in every process, as in process 0, got 0.002 in process 1"
    assert batch == "processes: expected at most 1, the rows of a batch, got 2"


@pytest.mark.slow
@pytest.mark.parametrize("name,last", [("vae", 1e-6), ("float32", 1e-3)])
def test_so_they_have_at_the_200th_step(tmp_path, name, last):
    both = found_by_two(tmp_path, name), shared_runs.losses(name, 200)
    found, alone = (torch.tensor(v, dtype=torch.float64) for v in both)
    off = (found - alone).abs() / alone.abs()
    assert off[0] < 1e-6
    assert off[-1] < last


# --- launches: minutes ---------------------------------------------------------------------------------------------------

FIT = ["fit", "digits", "--model", "vae", "--train.log_every", "1", "--train.validate_every", "20", "--quiet"]


def losses_of(folder):
    rows = (json.loads(line) for line in (Path(folder) / "history.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["step"]: (row["loss"], row.get("valid")) for row in rows}


def command(*words, **environment):
    env = {"OMP_NUM_THREADS": "1"} | os.environ | environment
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=280, env=env)


@pytest.mark.slow
def test_a_killed_process_costs_one_line_and_nothing_that_was_saved(tmp_path):
    whole, cut = (str(tmp_path / name) for name in ("whole", "cut"))
    every = [*FIT, "--steps", "60", "--train.checkpoint_every", "0", "--processes", "2"]
    assert command("likeli", *every, "--out", whole).returncode == 0
    words = [sys.executable, "-m", "likeli", *every, "--out", cut]
    launcher = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    while len(losses_of(cut) if (tmp_path / "cut" / "history.jsonl").exists() else ()) < 20:
        time.sleep(0.01)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="ascii").split()
    os.kill(int(children[1]), signal.SIGKILL)
    told = launcher.communicate(timeout=120)[1].strip().splitlines()
    assert told == ["likeli: process 1 of 2 was ended by SIGKILL; a run that was saved can be resumed"]
    assert launcher.returncode == 1
    assert likeli.load(cut).kind() == "vae"
    assert command("likeli", *every, "--out", cut, "--resume").returncode == 0
    assert losses_of(cut) == losses_of(whole)  # to the bit
    same = [v.equal(w) for v, w in zip(likeli.load(cut).state_dict().values(), likeli.load(whole).state_dict().values())]
    assert all(same)


KILLS = times(20, 200)


@pytest.mark.slow
@pytest.mark.timeout(300 * KILLS)
def test_kills_of_either_process_at_any_instant_leave_a_run_that_ends_as_if_there_were_none(tmp_path, record_property):
    """Of a run that is resumed again and again, process 0 or 1 is killed while they start, meet, step, save or validate."""
    whole, cut = (str(tmp_path / name) for name in ("whole", "cut"))
    every = [*FIT, "--steps", str(30 * KILLS), "--train.checkpoint_every", "0", "--processes", "2"]
    assert command("likeli", *every, "--out", whole).returncode == 0
    rng, killed, early, last = random.Random(0), 0, 0, 0
    while killed < KILLS:
        words = [sys.executable, "-m", "likeli", *every, "--out", cut, "--resume"]
        launcher = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        while len(found := children.read_text(encoding="ascii").split()) < 2:
            time.sleep(0.01)
        goal, delay = (0, rng.uniform(0, 3)) if rng.random() < 0.3 else (last + rng.randrange(1, 20), rng.uniform(0, 0.05))
        while launcher.poll() is None and steps_of(cut) < goal:
            time.sleep(0.002)
        time.sleep(delay)
        rank = rng.randrange(2)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(found[rank]), signal.SIGKILL)
        told = launcher.communicate(timeout=250)[1].strip().splitlines()
        assert told == [f"likeli: process {rank} of 2 was ended by SIGKILL; a run that was saved can be resumed"]
        assert launcher.returncode == 1
        killed, early, last = killed + 1, early + (not steps_of(cut)), steps_of(cut)
        if last:
            assert likeli.load(cut).kind() == "vae"
    assert command("likeli", *every, "--out", cut, "--resume").returncode == 0
    assert losses_of(cut) == losses_of(whole)  # to the bit
    assert all(v.equal(w) for v, w in zip(likeli.load(cut).state_dict().values(), likeli.load(whole).state_dict().values()))
    told = f"{killed} kills of one of two processes, {early} before the first step, the last at step {last}: losses equal"
    record_property("figure", told)


def steps_of(folder):
    path = Path(folder) / "history.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


ON = """
import os, signal, sys
import likeli
from likeli import processes
from likeli.random import seeded
from likeli.training.run import Run

stop, source, out, rate = int(sys.argv[1]), *sys.argv[2:], Run.rate

def stopping(run):
    if run.step == stop - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return rate(run)

Run.rate = stopping
with processes.joined_by_launcher():
    data = likeli.load_data(source)
    with seeded(1):
        model = likeli.VAE(data.space, latent_dim=2)
    try:
        likeli.fit(model, data, steps=30, batch=50, log_every=1, validate_every=10, progress=False, out=out, resume=True)
    except likeli.Interrupted:
        pass
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_rows_in_files_come_in_one_order_to_two_then_one_then_three_processes(tmp_path):
    rows, script = tmp_path / "rows", tmp_path / "on.py"
    rows.mkdir()
    for i in range(3):
        x = np.random.default_rng(i).standard_normal((300, 2)) @ [[1, 0.8], [0, 0.6]]
        pd.DataFrame(x, columns=["a", "b"]).to_parquet(rows / f"{i}.parquet", row_group_size=60)
    script.write_text(ON, encoding="utf-8")
    for out, n, stop in (("whole", 1, 1000), ("cut", 2, 12), ("cut", 1, 20), ("cut", 3, 1000)):
        ranks = started(n, [str(script), str(stop), str(rows), str(tmp_path / out)])
        assert [rank.wait(timeout=400) for rank in ranks] == [0] * n
    whole, cut = (torch.tensor([loss for loss, _ in losses_of(tmp_path / out).values()]) for out in ("whole", "cut"))
    assert len(whole) == 30
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_one_and_with_three_processes(tmp_path, shared):
    """Stopped by a signal at step 12 of two processes, then at step 20 of one, and ended by three: the rows in their order."""
    folder, data = shared["folder"], likeli.load_data("ring8")
    whole = torch.tensor([loss for loss, _ in shared["interrupted"]["whole"][0]])
    script = tmp_path / "on.py"
    script.write_text(ON, encoding="utf-8")
    for n, stop in ((1, 20), (3, 1000)):
        assert [rank.wait(timeout=250) for rank in started(n, [str(script), str(stop), "ring8", folder])] == [0] * n
    found = losses_of(folder)
    assert list(found) == list(range(1, 31))
    torch.testing.assert_close(torch.tensor([loss for loss, _ in found.values()]), whole, rtol=1e-4, atol=1e-5)
    assert len(data.train) > 50  # several batches an epoch, so that an order that differed would show


@pytest.mark.slow
def test_torchrun_on_one_machine_and_as_two_nodes(tmp_path):
    run = ["torch.distributed.run", "--nproc-per-node"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here, there, one = (str(tmp_path / name) for name in ("here", "there", "one"))
    assert command(*run, "2", "-m", "likeli", *FIT, "--steps", "30", "--out", here).returncode == 0
    nodes = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port]
    words = ["1", *nodes, "--node-rank", "RANK", "-m", "likeli", *FIT, "--steps", "30", "--out", there]
    launches = [
        subprocess.Popen([sys.executable, "-m", *run, *(str(i) if w == "RANK" else w for w in words)]) for i in range(2)
    ]
    assert [launch.wait(timeout=280) for launch in launches] == [0, 0]
    assert losses_of(here) == losses_of(there)
    assert command("likeli", *FIT, "--steps", "30", "--out", one).returncode == 0
    pairs = zip(losses_of(here).values(), losses_of(one).values())
    assert all(abs(a[0] - b[0]) < 1e-5 * abs(b[0]) for a, b in pairs)
    refused = command(*run, "2", "-m", "likeli", *FIT, "--processes", "2", "--out", here)
    told = [line for line in refused.stderr.splitlines() if line.startswith("likeli: ")]
    assert told == ["likeli: processes: expected no such option beside the 2 that a launcher has started, got 2"]
    refused = command(*run, "2", "-m", "likeli", "info", here)
    told = [line for line in refused.stderr.splitlines() if line.startswith("likeli: ")]
    assert told == ["likeli: info: expected one process, since it does not share its rows, got 2 that a launcher has started"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["sample", "-n", "200"], ["score", "digits"], ["evaluate", "--rows", "150"]])
def test_verbs_write_the_same_file_by_two_processes(tmp_path, words):
    run = str(tmp_path / "run")
    assert command("likeli", *FIT, "--steps", "20", "--out", run).returncode == 0
    written = []
    for n in "12":
        out = tmp_path / f"{n}.{'npy' if words[0] == 'sample' else 'csv'}"
        assert command("likeli", words[0], run, *words[1:], "--out", str(out), "--processes", n).returncode == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]

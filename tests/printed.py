"""What the pages and the helps print runs, on a budget of a moment.

Budgets are cut here (`BUDGETS`, `SMOKE`), so that what is printed says what one would really type.
"""

import contextlib
import io
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from likeli import config
from likeli.cli import main, quality
from likeli.cli.contest import Contest
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.noisy_classifier import fit_noisy_classifier
from likeli.evaluation import cross_fitted, examination
from likeli.theory import check

ROOT = Path(__file__).parent.parent
BUDGETS = [
    (r"\bminutes=[\d.]+", "steps=2"),
    (r"^(?!likeli evaluate)(.*)--minutes [\d.]+", r"\1--steps 2"),
    (r"(--steps |\bsteps=)\d+", r"\g<1>2"),
    (r"\bsample\(64\b", "sample(4"),
    (r"\bsamples=\d+", "samples=2"),
    (r"--likelihood.samples \d+", "--likelihood.samples 2"),
    (r"--model (vdm|flow_matching)\b", r"--model \1 --model.network mlp --model.hidden 8"),
    (r"^(likeli compare .*\bvdm\b.*)$", r"\1 --likelihood.vdm.samples 1 --model.vdm.network mlp --model.vdm.hidden 8"),
    (r"-n \d+", "-n 4"),
    (r"\bverify( --slow)?$", "verify --only jensen"),
    (r"\bchains=\d+, temperatures=\d+", "chains=10, temperatures=10"),
    (r"--likelihood.probes \d+", "--likelihood.probes 1"),
    (r"--method both", "--method both --likelihood.rtol 0.1 --likelihood.probes 1 --likelihood.samples 2"),
    (r"\bschedule_variance\(model, x\)", "schedule_variance(model, x, draws=2)"),
    (r"^x, _ = data\.split\(\"test\"\)$", 'x = data.split("test")[0][:200]'),
    (r"\(data\.split\(\"test\"\)\[0\], x\)", '(data.split("test")[0][:100], x[:100])'),
    (r"(likeli\.evaluate\(\w+, data\.split\(\"test\"\)\[0\]), ", r"\1, rows=8, "),
    (r"\bgaps\(model, x\)", "gaps(model, x[:4], steps=5, draws=20, samples=20)"),
    (r"\(48, 48, 224, 224\)", "(4, 4, 8, 8)"),
    (r" --train.shard true\b", ""),  # importing FSDP takes each process eight seconds; tests/training/test_sharding.py has it
    (r" --schedules\b", ""),  # six seconds; the line of Python beside it does the same
]
SMOKE = {  # words that a verb gets after its own: the last one counts
    "fit": "--quiet",
    "compare": "--quiet --train.valid_rows 8 --samples 48",
    "demo": "--jobs 1",
    "evaluate": "--rows 8",
    "distil": "--quiet --updates 2",
    "sampler": "--evaluations 2 --samplers euler --starts 8",
    "normalise": "--chains 20 --temperatures 20",
    "levels": "--rows 4 --levels 2 --draws 1",
    "doctor": "--rows 16",
    "guidance": "--scales 1 -n 20 --steps 2",
    "test": "--rows 100 --permutations 199",
}


def brief(text):
    for pattern, short in BUDGETS:
        text = re.sub(pattern, short, text, flags=re.MULTILINE)
    return text


def shell(command):
    words = shlex.split(brief(command))
    if words[0] == "make":
        assert subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True).returncode == 0, command
        return
    assert words[0] == "likeli", f"nobody here knows how to run {command!r}"
    found = (0, 1) if words[1] == "doctor" else (0,)  # what two steps have trained is not well
    assert main([*words[1:], *SMOKE.get(words[1], "").split()]) in found, command


def in_this_process(self, *words):
    """What a contest's process would print."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(list(words))
    return json.loads(out.getvalue())


def few_levels(own):
    """A diffusion's trajectory of four steps, where no number is asked for."""
    def trajectory(self, noise, y=None, *, steps=None, grid=None, **options):
        return own(self, noise, y, steps=steps or (None if isinstance(grid, tuple) else 4), grid=grid, **options)

    return trajectory


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder, registries that forget what a page adds to them, and few samples by few steps for judges in a hurry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Contest, "_call", in_this_process)
    monkeypatch.setattr(GaussianDiffusion, "trajectory", few_levels(GaussianDiffusion.trajectory))
    monkeypatch.setattr(quality, "HELD", 60)
    monkeypatch.setattr(cross_fitted, "REFITS", 2)
    monkeypatch.setattr(examination, "LOSSES", 64)
    monkeypatch.setitem(fit_noisy_classifier.__kwdefaults__, "steps", 3)
    monkeypatch.setattr(config, "_CLASSES", dict(config._CLASSES))
    check.checks()
    monkeypatch.setattr(check, "_CHECKS", dict(check._CHECKS))
    return tmp_path

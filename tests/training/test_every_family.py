"""A stopped and resumed run equals the straight one to the bit, for every family that there is."""

import importlib
import os
import pkgutil
import signal

import pytest
import torch
from probes import Rows

import likeli.models
from likeli import checkpoint
from likeli.config import registered
from likeli.contract import GenerativeModel
from likeli.errors import InputError, Interrupted, Unsupported
from likeli.random import seeded
from likeli.spaces import Pixels, Real
from likeli.training import fit
from likeli.training.session import Session

for _module in pkgutil.iter_modules(likeli.models.__path__, "likeli.models."):
    importlib.import_module(_module.name)

FAMILIES = {k: c for k, c in registered(GenerativeModel).items() if c.__module__.startswith("likeli.models.")}
SPACES = {"real": Real((3,), mean=(1.0, -2.0, 0.0), scale=(1.0, 5.0, 0.1)), "pixels": Pixels((4,), levels=7)}


def rows(space):
    with seeded(0, space.kind()):
        u = torch.randn(90, *space.shape) + 1.5 * (torch.arange(90) % 2)[:, None]
    return (u + 2).clamp(0, 6).long() if isinstance(space, Pixels) else space.from_model(u)


def made(family, space):
    with seeded(0, family):
        return FAMILIES[family](SPACES[space])


def takes(family, space):
    try:
        return bool(made(family, space))
    except (Unsupported, InputError):
        return False


def run(family, space, **options):
    model = made(family, space)
    history = fit(model, Rows(rows(SPACES[space]), valid=20), steps=6, batch=16, validate_every=2, valid_rows=1, **options)
    return model, [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]


CASES = [(f, s) for f in FAMILIES for s in SPACES if takes(f, s)]
RESUMED = [pytest.param(*c, marks=[pytest.mark.slow] * (c == ("distilled", "pixels"))) for c in CASES]


@pytest.mark.parametrize("family, space", RESUMED)
def test_resumed_equals_straight(monkeypatch, tmp_path, family, space):
    straight, expected = run(family, space)
    real = Session.take

    def take(self, row):
        real(self, row)
        if self.run.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "take", take)
        interrupted = False
        try:
            run(family, space, out=tmp_path / "run")
        except Interrupted:
            interrupted = True
    assert interrupted == (len(expected) > 1)  # a closed form is done before the third step
    resumed, found = run(family, space, out=tmp_path / "run", resume=True)
    assert found == expected
    saved = checkpoint.load(tmp_path / "run").state_dict()
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
        assert torch.equal(saved[name], value), name

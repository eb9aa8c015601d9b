"""What processes that split weights, gradients and Adam's moments do: run by two or three of them, to be compared with one."""

import json
import sys
import warnings
from pathlib import Path

import shared_runs

import likeli
from likeli import processes
from likeli.config import registered
from likeli.errors import InputError
from likeli.models import families
from likeli.random import seeded
from likeli.spaces import Real, Tokens
from likeli.training.run import Run
from likeli.training.sharding import part_of

families()
FAMILIES = {name: cls for name, cls in registered(likeli.GenerativeModel).items() if cls.__module__.startswith("likeli.")}
OWN = ("contrastive", "adversarial")  # ways to train that are no descent of one loss
COUPLED = ("autoregressive", "vdm")  # one order, and one scale of the schedule's gradient, for all rows of a batch
ABLE = [name for name, cls in sorted(FAMILIES.items()) if cls.strategy == "sgd"]


def family_losses(name, **settings):
    """Three steps of a family at its defaults, in float64."""
    symbols = "tokens" in FAMILIES[name].kinds and "real" not in FAMILIES[name].kinds
    with seeded(0):
        model = FAMILIES[name](Tokens(6, 3) if symbols else Real((6,))).double()
    x = shared_runs.U.long().clamp(-1, 1) + 1 if symbols else shared_runs.U
    found = likeli.fit(model, x, steps=3, batch=7, log_every=1, progress=False, **settings)
    return [row["loss"] for row in found.rows], sum(p.double().abs().sum().item() for p in model.parameters())


def held():
    """(numbers that this process holds of weights, moments and average, numbers that one process would)."""
    rate, seen = Run.rate, []

    def looking(run):
        parts = [part_of(p) for p in run.model.parameters()]
        parts += [v for m in run._parts["adam"].moments.values() for k, v in m.items() if k != "step"]
        whole = sum(p.numel() for p in run.model.parameters())
        seen.append((sum(p.numel() for p in [*parts, *run.average.average.values()]), 4 * whole))
        return rate(run)

    Run.rate = looking
    try:
        shared_runs.losses("vae", 3, shard=True)
    finally:
        Run.rate = rate
    return seen[-1]


def refused():
    """What is told of families that cannot be split."""
    told = []
    for name in sorted(FAMILIES):
        if FAMILIES[name].strategy in OWN:
            try:
                likeli.fit(FAMILIES[name](Real((6,))), shared_runs.U, steps=1, progress=False, shard=True)
            except InputError as error:
                told.append(str(error))
    return told


def main(folder, what=""):
    """Losses, checkpoints and sizes, or the losses of all families split and whole, as one JSON file."""
    warnings.simplefilter("ignore")
    with processes.joined_by_launcher():
        if what:
            found = {name: [family_losses(name, shard=split) for split in (True, False)] for name in ABLE}
        else:
            found = {
                "losses": shared_runs.losses("vae", 60, shard=True),
                "skipping": shared_runs.losses("vae", 10, shard=True, skip=1.01, weight_decay=0.1),
                "interrupted": shared_runs.interrupted(f"{folder}/run", shard=True),
                "held": held(),
                "refused": refused(),
                "shared": {name: family_losses(name) for name in COUPLED},
            }
        if processes.is_first():
            Path(folder, "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Writes the run folders that are loaded for ever: one small run of every family, and what it answers.

    PYTHONPATH=src:tests python tests/checkpoint/kept_runs.py     # in kept/VERSION/FAMILY, those that are not there yet

What is there is never written again: a later version adds a folder of its own.  docs/checkpoints.md says what to do when the
format changes.
"""

import inspect
import json
import sys
from pathlib import Path

import torch

import likeli
from families import FAMILIES
from likeli import checkpoint
from likeli.checkpoint.folder import remove_generations
from likeli.checkpoint.generation import generations
from likeli.errors import Unsupported
from likeli.random import seeded
from likeli.spaces import Binary, Counts, Labels, Pixels, Real, Tokens

KEPT = Path(__file__).with_name("kept")
PLANE, GREY, BITS = Real((2,), mean=(1.0, -2.0), scale=(3.0, 0.5)), Pixels((4, 4), levels=5), Binary((6,))
MLP, SMALL, UNET = (likeli.DenoiserBackbone(network, (n,)) for network, n in (("mlp", 8), ("transformer", 4), ("unet", 4)))


def table():
    """Rows of a real, a whole and a categorical column, typed as a file's would be."""
    import pandas

    u = noise(80, 3)
    sort = ["some" if v > 0 else "none" for v in u[:, 2]]
    frame = pandas.DataFrame({"size": u[:, 0].numpy(), "count": u[:, 1].mul(2).exp().long().numpy(), "sort": sort})
    return likeli.load_data(frame, fractions=(1.0, 0.0, 0.0))


def noise(*shape):
    with seeded(0, "kept"):
        return torch.randn(*shape)


def rows(space):
    """80 rows of a space."""
    u = noise(80, *space.shape) + noise(80, *[1] * len(space.shape))
    if isinstance(space, Pixels):
        return (u * space.levels / 4 + space.levels / 2).long().clamp(0, space.levels - 1)
    if isinstance(space, Tokens):
        return u.mul(2).long().abs() % space.vocab
    return u.exp().mul(2).long() if isinstance(space, Counts) else space.from_model(u)


def teacher():
    with seeded(0, "teacher"):
        return likeli.FlowMatching(GREY, SMALL).eval()


RUNS = {  # a space (a table where it is None), and the model on it
    "ae": (GREY, lambda s: likeli.AE(s, 2, (8,))),
    "autoregressive": (None, lambda s: likeli.Autoregressive(s, likeli.CausalBackbone("made", (8,)))),
    "boosted_trees": (PLANE, lambda s: FAMILIES["boosted_trees"](s, rounds=4, leaves=4)),
    "cae": (BITS, lambda s: likeli.CAE(s, 0.1, 2, 8)),
    "categorical_mixture": (Tokens(4, 3), lambda s: likeli.CategoricalMixture(s, 3)),
    "dae": (Counts((3,)), lambda s: likeli.DAE(s, 0.3, 2, (8,))),
    "ddpm": (PLANE, lambda s: likeli.DDPM(s, MLP, steps=20)),
    "discrete_diffusion": (Tokens(4, 3), lambda s: likeli.DiscreteDiffusion(s, backbone=likeli.SymbolBackbone(hidden=(8,)))),
    "distilled": (GREY, lambda s: likeli.Distilled(s, teacher(), steps=2, substeps=2)),
    "ebm": (PLANE, lambda s: likeli.EBM(s, hidden=(8,))),
    "edm": (GREY, lambda s: likeli.EDM(s, SMALL)),
    "factor_analysis": (Real((3,)), lambda s: likeli.FactorAnalysis(s, 1)),
    "flow": (None, lambda s: likeli.Flow(s, transforms=2, hidden=(8,), bins=4)),
    "flow_matching": (GREY, lambda s: likeli.FlowMatching(s, SMALL)),
    "gan": (PLANE, lambda s: likeli.GAN(s, 2, (8,))),
    "gmm": (PLANE, lambda s: likeli.GMM(s, 2)),
    "hvae": (GREY, lambda s: likeli.HVAE(s, (2, 2), likeli.LadderBackbone((8, 8)))),
    "independent": (Counts((3,)), lambda s: likeli.Independent(s)),
    "markov_hvae": (BITS, lambda s: likeli.MarkovHVAE(s, (2, 2), (8,))),
    "ppca": (Real((3,)), lambda s: likeli.PPCA(s, 1)),
    "rbm": (BITS, lambda s: likeli.RBM(s, 4)),
    "score_sde": (GREY, lambda s: likeli.ScoreSDE(s, SMALL)),
    "vae": (GREY, lambda s: likeli.VAE(s, 2, likeli.CoderBackbone((8,)), condition=Labels(3))),
    "vdm": (GREY, lambda s: likeli.VDM(s, UNET, noise="log_linear")),
}


def answers(model, x, y=None):
    """What a user sees of a model, as plain values: the loss, log p, samples."""
    found = {}
    y = None if y is None else torch.tensor(y)
    quick = {"steps": 5} if "steps" in inspect.signature(model.draw).parameters else {}
    with seeded(0, "kept"), torch.no_grad():
        found["loss"] = model.loss(x, y).double().tolist()
    try:
        log_p = model.log_likelihood(x, y)
        found |= {"log_p": log_p.value.double().tolist(), "knows": log_p.knows.value, "measure": log_p.measure}
    except Unsupported as reason:
        found["log_p"] = str(reason)
    try:
        found["sample"] = model.sample(3, None if y is None else y[:3], **quick).double().tolist()
    except Unsupported as reason:
        found["sample"] = str(reason)
    return found


def write(name, folder):
    """Fit for a moment, keep the last generation (of `unfinished` the one before), and what it answers beside it."""
    family = "vae" if name == "unfinished" else name
    space, make = RUNS[family]
    data = table() if space is None else likeli.load_data(rows(space).numpy())
    with seeded(0, "weights"):
        model = make(data.space if space is None else space)
    x = data.x if space is None else space.check(rows(space))
    y = torch.arange(len(x)) % 3 if model.condition is not None else None
    often = {"checkpoint_every": 0} if name == "unfinished" else {}
    likeli.fit(model, x, y, steps=6, batch=16, progress=False, out=folder, **often)
    there = generations(folder)
    remove_generations(folder, there[-1:] if name == "unfinished" else there[:-1])
    kept = {"x": x[:5].double().tolist(), "y": None if y is None else y[:5].tolist()}
    (folder / "numbers.json").write_text(json.dumps(kept | answers(model, x[:5], kept["y"])))
    for leftover in folder.glob(".*"):
        leftover.unlink()


if __name__ == "__main__":
    release = KEPT / likeli.__version__
    for run in [*RUNS, "unfinished"]:
        if not (release / run).exists():
            write(run, release / run)
            assert checkpoint.read(release / run)
            print(run, sum(p.stat().st_size for p in (release / run).rglob("*") if p.is_file()), file=sys.stderr)

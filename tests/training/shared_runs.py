"""What processes must do as one does: run by two of them, and by the test's own, to be compared."""

import json
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import torch

import likeli
from likeli import processes
from likeli.evaluation.likelihood import score
from likeli.models.gan import AdversarialObjective
from likeli.models.vae import VariationalObjective
from likeli.random import seeded
from likeli.spaces import Binary, Counts, Labels, Real, Tokens
from likeli.training.run import Run

G = torch.Generator().manual_seed(0)
U = torch.randn(100, 6, generator=G).double() @ torch.randn(6, 6, generator=G).double()
BITS, COUNTS = (U.reshape(-1, 2, 3) > 0).long(), U.exp().mul(2).clamp(max=50).long()
HOLED = torch.where(torch.rand(U.shape, generator=G) < 0.2, torch.nan, U)
STEPS = {"vae": 50, "float32": 10, "free nats": 10, "weighted": 10, "ebm": 10, "gan": 10, "critic": 10, "discrete": 4,
         "hiding": 4}  # fmt: skip


def made(name):
    """A model of that name with its rows, and what the fit is given besides."""
    with seeded(0):
        match name:
            case "vae":
                return likeli.VAE(Real((6,)), latent_dim=2).double(), U, {"clip": 1.0}
            case "float32":
                return likeli.VAE(Real((6,)), latent_dim=2), U.float(), {"clip": 1.0}
            case "free nats":
                objective = VariationalObjective(free_nats=0.5)
                return likeli.VAE(Real((6,)), latent_dim=2, objective=objective).double(), U, {}
            case "weighted":
                objective = VariationalObjective(train_samples=3, gradient="dreg")
                weight = torch.arange(100) % 3.0
                return likeli.VAE(Real((6,)), latent_dim=2, objective=objective).double(), U, {"sample_weight": weight}
            case "hiding":
                objective = VariationalObjective(missingness="high", train_samples=2)
                model = likeli.VAE(Real((6,)), 2, likeli.CoderBackbone(dropout=0.2), objective=objective).double()
                return model, HOLED, {}
            case "ebm":
                return likeli.EBM(Binary((2, 3))).double(), BITS, {}
            case "gan":
                return likeli.GAN(Real((6,)), objective=AdversarialObjective("wgan_gp", turns=2)).double(), U, {}
            case "critic":
                objective = VariationalObjective(critic=3.0, critic_turns=2)
                model = likeli.VAE(Real((6,)), latent_dim=2, objective=objective, condition=Labels(3)).double()
                return model, U, {"y": torch.arange(100) % 3}
            case "discrete":
                return likeli.DiscreteDiffusion(Tokens(6, 3)).double(), U.long().clamp(-1, 1) + 1, {}


def losses(name, steps=None, **settings):
    """The logged losses of a fit whose batch of 33 rows no two processes share evenly."""
    model, x, options = made(name)
    steps, options = STEPS[name] if steps is None else steps, options | settings
    return [r["loss"] for r in likeli.fit(model, x, steps=steps, batch=33, log_every=1, progress=False, **options).rows]


CLOSED = {
    "gmm": (lambda: likeli.GMM(Real((6,)), 3, tol=0, max_iter=20), U),
    "gmm with holes": (lambda: likeli.GMM(Real((6,)), 2, tol=0, max_iter=5), HOLED),
    "gmm tied": (lambda: likeli.GMM(Real((6,)), 3, "tied", tol=0, max_iter=20), U),
    "ppca": (lambda: likeli.PPCA(Real((6,)), 2), U),
    "ppca by em": (lambda: likeli.PPCA(Real((6,)), 2, solver="em", tol=0, max_iter=20), U),
    "ppca with holes": (lambda: likeli.PPCA(Real((6,)), 2, tol=0, max_iter=5), HOLED),
    "factor analysis": (lambda: likeli.FactorAnalysis(Real((6,)), 2, tol=0, max_iter=20), U),
    "categories": (lambda: likeli.CategoricalMixture(Binary((2, 3)), 3, tol=0, max_iter=10), BITS),
    "normals": (lambda: likeli.Independent(Real((6,))), HOLED),
    "bits": (lambda: likeli.Independent(Binary((2, 3))), BITS),
    "counts": (lambda: likeli.Independent(Counts((6,))), COUNTS),
}


def closed(name):
    """The parameters of a family that is fitted to all rows at once, and the loss that was reported."""
    build, x = CLOSED[name]
    model = build()
    history = likeli.fit(model, x, progress=False)
    return [*(v for p in model.parameters() for v in p.flatten().tolist()), history.rows[-1]["loss"]]


def interrupted(folder, **settings):
    """A validated run that a signal to the last process alone stops at step 12; losses and weights of the run that goes on."""
    rate, data = Run.rate, likeli.load_data("ring8")

    def stopping(run):
        if run.step == 11 and processes.rank() == processes.count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(run)

    def fit(**options):
        with seeded(1):
            model = likeli.VAE(data.space, latent_dim=2)
        known = {"steps": 30, "batch": 50, "log_every": 1, "validate_every": 10, "progress": False}
        history = likeli.fit(model, data, **known, **settings, **options)
        return [[r["loss"], r.get("valid")] for r in history.rows], [v.sum().item() for v in model.state_dict().values()]

    whole = fit()
    Run.rate = stopping
    try:
        fit(out=folder)
    except likeli.Interrupted as stop:
        code = stop.exit_code
    finally:
        Run.rate = rate
    if processes.is_first():
        shutil.copytree(folder, f"{folder}-copy")
    resumed = fit(out=folder, resume=True)
    return {"code": code, "whole": whole, "resumed": [resumed[0][-18:], resumed[1]]}


def by_rows():
    """log p of 150 rows by a Monte Carlo family, and imputed cells of two families."""
    model = made("float32")[0].eval()
    holed = torch.where(torch.rand(150, 6, generator=torch.Generator().manual_seed(1)) < 0.3, torch.nan, 1.0)
    parts = list(score(model, holed.nan_to_num(0), batch=64))
    exact = likeli.GMM(Real((6,)), 3)
    with torch.no_grad():
        exact.means.copy_(torch.arange(18.0).view(3, 6))
    filled = [likeli.impute(m, holed, 3, batch=32, samples=5).draws.flatten().tolist() for m in (model, exact)]
    return [torch.cat([p.value for p in parts]).tolist(), torch.cat([p.stderr for p in parts]).tolist(), *filled]


def refused(folder):
    """What is told, in every process, of one that asks for another seed, sees other rows or not the run's folder, or is too
    many for the batch."""
    told, mine = [], processes.rank()
    apart = {"out": f"{folder}/of-{mine}/run"}
    for x, options in ((U, {"seed": mine}), (U + mine, {}), (U, {"lr": 1e-3 * (1 + mine)}), (U, {"batch": 1}), (U, apart)):
        try:
            likeli.fit(made("float32")[0], x.float(), steps=1, progress=False, **options)
            told.append("")
        except likeli.InputError as error:
            told.append(str(error))
    return told


def main(folder, long=""):
    """Everything, or the long run of that name, as one JSON file."""
    warnings.simplefilter("ignore")
    with processes.joined_by_launcher():
        found = losses(long, 200) if long else {
            "losses": {name: losses(name) for name in STEPS},
            "closed": {name: closed(name) for name in CLOSED},
            "interrupted": interrupted(f"{folder}/run"),
            "rows": by_rows(),
            "refused": refused(folder),
        }
        if processes.is_first():
            Path(folder, "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

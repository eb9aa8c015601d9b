"""Counts of genes in equal CPU seconds on one core: the VAE of counts against scvi-tools' SCVI, in nats of a held-out cell.

10,000 neurons, 1,000 genes, 1,000 cells held out; both have 10 numbers of code, one hidden layer of 128 and a negative binomial
with a dispersion for every gene.  `nats` is −log p by importance weighting with `SAMPLES` codes, an upper bound in expectation,
and `bound` the ELBO's negative.  scvi's default looks up each cell's total before it says how probable the cell is, so that its
number is not that of the cell (`given_total`); with a total that is drawn as well, it is one: this is what ours is beside.
Data: scrna_neurons.npz.
"""

import time

import numpy as np

METRIC, HIGHER = "nats", False
VARIANTS = [{"seconds": 120}]
HELD, SAMPLES, WIDTH, HIDDEN, BATCH = 1000, 100, 10, 128, 128


def prepare(folder, data):
    with np.load(data / "scrna_neurons.npz") as file:
        x = file["counts"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    np.savez(folder / "neurons.npz", train=x[order[HELD:]], test=x[order[:HELD]])


def cells(folder):
    with np.load(folder / "neurons.npz") as found:
        return found["train"], found["test"]


def ours(folder, seconds, head="negative_binomial", seed=0):
    import torch

    import likeli
    from likeli import spaces
    from likeli.data.dataset import Data

    x, test = (torch.from_numpy(part) for part in cells(folder))
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    space = spaces.Counts((x.shape[1],))
    data = Data("neurons", x, None, space, None, rows[HELD // 2 :], rows[: HELD // 2], rows[:0])
    heads = {"negative_binomial": spaces.NegativeBinomial(), "dirichlet_multinomial": spaces.DirichletMultinomial()}

    def trained(steps):
        with likeli.seeded(seed):
            model = likeli.VAE(space, WIDTH, likeli.CoderBackbone((HIDDEN,)), head=heads[head])
        begin = time.process_time()
        likeli.fit(model, data, steps=steps, batch=BATCH, seed=seed, progress=False)
        return model, time.process_time() - begin

    steps = int(seconds / (trained(220)[1] - trained(20)[1]) * 200)
    model, spent = trained(steps)
    found, bound = (likeli.evaluate(model, test, samples=n, seed=0) for n in (SAMPLES, 1))
    epochs = steps * BATCH / len(data.train)
    return {
        "nats": -found.nats, "stderr": found.stderr, "bound": -bound.nats,
        "cpu_seconds": spent, "epochs_per_second": epochs / spent,
    }  # fmt: skip


def peer(folder, seconds, head="negative_binomial", seed=0):
    both = {total: scvi(folder, seconds, seed, total) for total in (False, True)}
    return both[False] | {"given_total": both[True]["nats"]}


def scvi(folder, seconds, seed, given_total):
    import logging

    import torch
    from anndata import AnnData
    from scvi import settings
    from scvi.model import SCVI

    logging.getLogger("lightning").setLevel(logging.ERROR)
    settings.seed, settings.verbosity = seed, logging.ERROR
    torch.set_num_threads(1)
    x, test = (AnnData(part.astype(np.float32)) for part in cells(folder))
    for part in (x, test):
        SCVI.setup_anndata(part)

    def trained(epochs):
        model = SCVI(
            x, n_latent=WIDTH, n_hidden=HIDDEN, n_layers=1, gene_likelihood="nb", use_observed_lib_size=given_total
        )
        begin = time.process_time()
        model.train(
            max_epochs=epochs, accelerator="cpu", devices=1, train_size=0.95, batch_size=BATCH, enable_progress_bar=False,
            plan_kwargs={"n_epochs_kl_warmup": max(epochs // 3, 1)}, logger=False,
        )  # fmt: skip
        return model, time.process_time() - begin

    epochs = int(seconds / ((trained(4)[1] - trained(1)[1]) / 3))
    model, spent = trained(epochs)
    nats = -model.get_marginal_ll(test, n_mc_samples=SAMPLES, return_mean=False)
    return {
        "nats": float(nats.mean()), "stderr": float(nats.std() / len(nats) ** 0.5), "bound": -float(model.get_elbo(test)),
        "cpu_seconds": spent, "epochs_per_second": epochs / spent,
    }  # fmt: skip

"""A hierarchical VAE in 1,800 CPU seconds of one core on statically binarised MNIST: IWAE-1000 on 1,000 test digits.

Ours is a convolutional pyramid of at most 3 million parameters: two levels on 7×7 cells below two dense ones.  pythae has no
hierarchy of Gaussian levels, so the peer is its VampPrior: one level, layers of 300, as many epochs as fit in the same CPU
seconds, its own trainer's defaults but for Adam at 1e-3 and batches of 128.  Its bound takes 5,000 draws and ours 1,000, which
is to its advantage.

Published, static binarisation, trained without a limit of time: a two-level MLP with a VampPrior 83.19, convolutional 81.09
(Tomczak & Welling 2017, arXiv:1705.07120); BIVA 78.59 (Maaløe et al. 2019, arXiv:1902.02102).
"""

import math
import time

from benchmarks._precision import fastest
from benchmarks.vae_quality import load, prepare
from benchmarks.vae_quality import peer as single_level
from likeli.models.hvae import LadderBackbone

METRIC, HIGHER = "negative_log_likelihood", False
VARIANTS = [{"seconds": 1800}]
SAMPLES, BATCH, CALIBRATION, MARGIN = 1000, 64, 80, 0.96
LADDER = {
    "latent_dims": (4, 4, 16, 16),
    "backbone": LadderBackbone((48, 48, 224, 224), network="conv", halvings=(0, 0, 3, 3)),
    "inference": "direct",
}
TRAINING = {"batch": BATCH, "lr": 2e-3, "ema": 0.9995, "weight_decay": 0.02, "skip": 20.0}

__all__ = ["ours", "peer", "prepare"]


def cpu_seconds(task):
    begin = time.process_time()
    task()
    return time.process_time() - begin


def trained(folder, seconds):
    """The model after so many CPU seconds of training, calibration and validation included, and what the training took."""
    import torch

    from likeli.data.dataset import Data
    from likeli.models.hvae import HVAE
    from likeli.spaces import Binary
    from likeli.training import fit

    train, valid, _ = digits(folder)
    space, rows = Binary((28, 28)), torch.arange(len(train) + len(valid))
    data = Data("mnist", torch.cat([train, valid]), None, space, None, rows[: len(train)], rows[len(train) :], rows[:0])

    settings = TRAINING | {"precision": fastest()}

    def made(steps):
        torch.manual_seed(0)
        return HVAE(space, **LADDER, kl_warmup=steps // 5)

    begin = time.process_time()
    fit(made(1), train, steps=5, progress=False, **settings)
    step = cpu_seconds(lambda: fit(made(1), train, steps=CALIBRATION, progress=False, **settings)) / CALIBRATION
    steps = math.floor(MARGIN * (seconds - (time.process_time() - begin)) / step)
    model = made(steps)
    fit(model, data, steps=steps, progress=False, out=folder / "run", overwrite=True, **settings)
    spent = time.process_time() - begin
    return model, {"images_per_second": BATCH / step, "steps": steps, "training_seconds": spent}


def digits(folder):
    return tuple(x.reshape(-1, 28, 28) for x in load(folder))


def measured(model, folder):
    """The bounds of the model: of the ELBO on the training, validation and test digits, and of 1,000 draws on the last."""
    from likeli.evaluation.likelihood import evaluate

    parts = dict(zip(("train", "valid", "test"), digits(folder)))
    elbos = {f"negative_elbo_{part}": -evaluate(model, x[:2000], samples=1).nats for part, x in parts.items()}
    result = evaluate(model, parts["test"], samples=SAMPLES)
    return {"negative_log_likelihood": -result.nats, "stderr": result.stderr, "parameters": result.parameters} | elbos


def ours(folder, seconds):
    model, facts = trained(folder, seconds)
    return measured(model, folder) | facts


def peer(folder, seconds):
    return single_level(folder, "VAMP", seconds)

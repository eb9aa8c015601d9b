"""An LSTM over rows in 900 CPU seconds of one core on statically binarised MNIST: exact nats on all test digits.

The peer is pythae's VampPrior in the same CPU seconds, its number a bound by 5,000 draws on 1,000 test digits.  Published on
the same split, without a limit of time: NADE 88.33, EoNADE 84.68 (Uria et al. 2014, arXiv:1310.1757), PixelCNN 81.30 (van den
Oord et al. 2016, arXiv:1601.06759).
"""

import math
import time

import numpy as np

from benchmarks._budget import fitted_in
from benchmarks._precision import fastest
from benchmarks.vae_quality import load as load_thousand
from benchmarks.vae_quality import peer as vae_peer
from benchmarks.vae_quality import prepare as prepare_thousand

METRIC, HIGHER = "negative_log_likelihood", False
VARIANTS = [{"seconds": 900}]
BACKBONE = {"network": "rows", "hidden": (384,), "dropout": 0.15}
TRAINING = {"batch": 64, "lr": 4e-3, "ema": 0.998}


def prepare(folder, data):
    prepare_thousand(folder, data)
    with np.load(data / "mnist_static_binary.npz") as file:
        np.save(folder / "test.npy", np.unpackbits(file["test"], axis=1))


def ours(folder, seconds, seed=0):
    import torch

    from likeli.evaluation.likelihood import evaluate
    from likeli.models.autoregressive import Autoregressive, CausalBackbone
    from likeli.spaces import Binary
    from likeli.training import fit

    train, _, _ = load_thousand(folder)
    train = train.reshape(-1, 28, 28)

    settings = TRAINING | {"precision": fastest()}

    def trained(steps):
        torch.manual_seed(seed)
        model = Autoregressive(Binary((28, 28)), CausalBackbone(**BACKBONE))
        begin = time.process_time()
        fit(model, train, seed=seed, steps=steps, progress=False, **settings)
        return model, time.process_time() - begin

    model, spent = fitted_in(seconds, trained)
    test = torch.from_numpy(np.load(folder / "test.npy")).reshape(-1, 28, 28)
    found = evaluate(model, test)
    return {"negative_log_likelihood": -found.nats, "stderr": found.stderr, "cpu_seconds": spent}


def peer(folder, seconds):
    return vae_peer(folder, "VAMP", seconds) | {"stderr": math.nan, "cpu_seconds": seconds}

"""Tiny Shakespeare in 1,200 CPU seconds of one core: bits per character of networks of fewer than a million parameters.

The last tenth, in windows of 256 that do not overlap; every character counts once, a window's first too, predicted from
nothing, and beside it the figure of windows that overlap by half.  The peer is a Witten-Bell model of five symbols of history
counted on the first nine tenths, which reads the last tenth as one text: 2.246; see `_ngram` for what other conventions give.
"""

import math
import time

import numpy as np

from benchmarks._budget import fitted_in
from benchmarks._ngram import bits_per_symbol
from benchmarks._precision import fastest

METRIC, HIGHER = "bits_per_character", False
VARIANTS = [{"family": family, "seconds": 1200} for family in ("autoregressive", "absorbing")]
OWN_PEER = True
CONTEXT, STRIDE = 256, 31
TRAINING = {"batch": 16, "ema": 0.998, "betas": (0.9, 0.99)}
RATE = 5e-3
FEW = 16  # windows of the chain rule of masked diffusion, which takes a pass of the network for each symbol


def prepare(folder, data):
    text = (data / "shakespeare.txt").read_text(encoding="utf-8")
    alphabet = "".join(sorted(set(text)))
    codes = {c: i for i, c in enumerate(alphabet)}
    x, cut = np.array([codes[c] for c in text]), len(text) * 9 // 10
    np.savez(folder / "text.npz", train=x[:cut], test=x[cut:], alphabet=alphabet)


def made(family, alphabet):
    from likeli.discrete.backbone import SymbolBackbone
    from likeli.models.autoregressive import Autoregressive
    from likeli.models.discrete_diffusion import DiscreteDiffusion
    from likeli.spaces import Tokens

    space = Tokens(CONTEXT, len(alphabet), alphabet)
    if family == "autoregressive":
        return Autoregressive(space)
    return DiscreteDiffusion(space, backbone=SymbolBackbone("lstm", hidden=(192,)))


def ours(folder, family, seconds, seed=0):
    import torch

    from likeli.evaluation.likelihood import evaluate
    from likeli.evaluation.one_model import strided
    from likeli.training import fit

    with np.load(folder / "text.npz") as data:
        train, test, alphabet = torch.from_numpy(data["train"]), torch.from_numpy(data["test"]), str(data["alphabet"])
    rows = train.unfold(0, CONTEXT, STRIDE).contiguous()

    settings = TRAINING | {"precision": fastest()}

    def trained(steps):
        torch.manual_seed(seed)
        model, begin = made(family, alphabet), time.process_time()
        fit(model, rows, seed=seed, steps=steps, progress=False, lr=RATE, **settings)
        return model, time.process_time() - begin

    model, spent = fitted_in(seconds, trained)
    windows = test[: len(test) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    found = evaluate(model, windows, progress=False)
    chain = found
    if family == "absorbing":
        chain = evaluate(model, windows[:: len(windows) // FEW], progress=False, method="chain_rule")
    return {
        "bits_per_character": found.bits_per_dim,
        "stderr": found.bits_stderr,
        "left_to_right": chain.bits_per_dim,
        "left_to_right_stderr": chain.bits_stderr,
        "strided": strided(model, windows, CONTEXT // 2).bits_per_dim,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": spent,
    }


def peer(folder, family, seconds):
    with np.load(folder / "text.npz") as data:
        train, test, symbols = data["train"].tolist(), data["test"].tolist(), len(str(data["alphabet"]))
    bits = bits_per_symbol(train, test, symbols, 5, once=True)
    same = dict.fromkeys(("bits_per_character", "left_to_right", "strided"), bits)
    return same | {"stderr": math.nan, "left_to_right_stderr": math.nan, "parameters": 0, "cpu_seconds": 0.0}

"""A step of the contractive autoencoder 784-256-64 with its exact penalty, batch 128: against the Jacobian by autograd.

The other side is the same network in plain PyTorch with ‖∂g/∂x‖² from `torch.func.jacrev`, one reverse pass for each of the 64
codes.  `times_plain` is the cost of the step over that of the same autoencoder without a penalty, on the same side; processor
seconds, medians over interleaved steps, gradients included and the optimiser not.
"""

import statistics
import time

import numpy as np

VARIANTS = [{"latent_dim": 64}, {"latent_dim": 8}]
BATCH, INPUTS, HIDDEN, ROUNDS = 128, 784, 256, 60


def prepare(folder, data):
    rows = np.random.default_rng(0).integers(0, 256, (BATCH, INPUTS), dtype=np.uint8)
    np.save(folder / "rows.npy", rows)


def compare_steps(contractive, plain):
    """Seconds of either kind of step; they take turns, so that both see the same machine."""
    seconds = {contractive: [], plain: []}
    for _ in range(ROUNDS):
        for step in seconds:
            begin = time.process_time()
            step()
            seconds[step].append(time.process_time() - begin)
    full, bare = (statistics.median(s[10:]) for s in seconds.values())
    return {"seconds": full, "plain": bare, "times_plain": full / bare}


def ours(folder, latent_dim):
    import torch

    from likeli.models.autoencoder import AE, CAE
    from likeli.spaces import Pixels

    x, space = torch.from_numpy(np.load(folder / "rows.npy")), Pixels((INPUTS,))
    cae, ae = CAE(space, 0.1, latent_dim, HIDDEN), AE(space, latent_dim, (HIDDEN,), activation="softplus")

    def step(model):
        model.zero_grad()
        model.loss(x).mean().backward()

    return compare_steps(lambda: step(cae), lambda: step(ae))


def peer(folder, latent_dim):
    import torch
    from torch import nn

    u = torch.from_numpy(np.load(folder / "rows.npy")).float() / 128 - 1
    encoder = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, latent_dim))
    decoder = nn.Sequential(nn.Linear(latent_dim, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, INPUTS))
    jacobian = torch.func.vmap(torch.func.jacrev(encoder))

    def step(penalty):
        encoder.zero_grad()
        decoder.zero_grad()
        loss = (decoder(encoder(u)) - u).square().sum(1)
        loss = loss + penalty * jacobian(u).square().sum((1, 2)) if penalty else loss
        loss.mean().backward()

    return compare_steps(lambda: step(0.1), lambda: step(0.0))

"""Binary MNIST by its class: which share of a conditional VAE's draws are the digit that was asked for, the loss the bound.

Ours draws the code from p(z|y), a flow of its own for each class; the peer is the same VAE with one p(z) for all.  Draws are
read by a classifier that knows 99 % of the test digits, binarised as the training rows are; `as_asked` is corrected for its
errors: the rows of the draws' confusion are solved for the shares that, through the confusion on test digits, give them.
"""

import time

import numpy as np

METRIC, HIGHER, OWN_PEER = "as_asked", True, True
VARIANTS = [{"steps": 3500}]
LATENT, DRAWS, TEST = 16, 5000, 1000


def prepare(folder, data):
    rng, parts = np.random.default_rng(0), {}
    with np.load(data / "mnist.npz") as file:
        for part in ("train", "test"):
            images = file[f"{part}_images"]
            parts[part] = (rng.random(images.shape, np.float32) < images / 255).astype(np.uint8)
            parts[f"{part}_labels"] = file[f"{part}_labels"]
    np.savez(folder / "binary_digits.npz", **parts)


def ours(folder, steps, seed=0):
    return trained(folder, "conditional_flow", steps, seed)


def peer(folder, steps, seed=0):
    return trained(folder, "normal", steps, seed)


def trained(folder, prior, steps, seed):
    import torch

    import likeli
    from benchmarks._mnist import confusion, reader
    from likeli.data.dataset import Data
    from likeli.evaluation.likelihood import evaluate
    from likeli.models.vae import VAE, LatentPrior
    from likeli.spaces import Binary, Labels

    with np.load(folder / "binary_digits.npz") as file:
        x, y, test, theirs = (torch.from_numpy(file[name]) for name in ("train", "train_labels", "test", "test_labels"))
    rows, space, classes = torch.arange(len(x)), Binary((28, 28)), Labels(10)
    data = Data("digits", x, y.long(), space, classes, rows[:-5000], rows[-5000:], rows[:0])
    begin = time.process_time()
    torch.manual_seed(seed)
    model = VAE(space, LATENT, latent_prior=LatentPrior(prior), condition=classes)
    likeli.fit(model, data, steps=steps, seed=seed, progress=False)
    spent = time.process_time() - begin
    bound = evaluate(model, test[:TEST], theirs[:TEST].long(), samples=1)

    net = reader(255 * x, y)
    misread = confusion(net, 255 * test, theirs)
    asked = torch.arange(10).repeat_interleave(DRAWS // 10)
    found = confusion(net, 255 * model.sample(DRAWS, asked, seed=1), asked)
    shares = torch.linalg.solve(misread.mT, found.mT).mT
    plain, error = found.diagonal().mean().item(), (found.diagonal().mean() * (1 - found.diagonal().mean()) / DRAWS) ** 0.5
    return {
        METRIC: shares.diagonal().mean().item(),
        "stderr": error.item(),
        "as_read": plain,
        "reader_accuracy": (misread.diagonal() * theirs.bincount(minlength=10) / len(theirs)).sum().item(),
        "bound": bound.nats,
        "bound_stderr": bound.stderr,
        "cpu_seconds": spent,
    }

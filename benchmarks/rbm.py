"""An RBM of 64 hidden units in 600 CPU seconds of one core on statically binarised MNIST, beside scikit-learn's `BernoulliRBM`.

Both are judged by the same annealing from both ends, and by the 1,000 test digits of `vae_quality`; the mixture of 100
Bernoulli components has 137.4.  scikit-learn trains by persistent contrastive divergence at its own defaults but for batches
of 100.
"""

import time

from benchmarks.vae_quality import load, prepare

__all__ = ["METRIC", "VARIANTS", "ours", "peer", "prepare"]

METRIC, HIGHER = "negative_log_likelihood", False
VARIANTS = [{"hidden": 64, "seconds": 600}]
TRIAL, CHAINS, TEMPERATURES = 300, 200, 4000


def judged(model, test, spent):
    found = model.normalise(chains=CHAINS, temperatures=TEMPERATURES)
    nats = model.log_likelihood(test).value.mean().item()
    return {"negative_log_likelihood": -nats, "bracket": found.high - found.low, "ess": found.ess, "cpu_seconds": spent}


def ours(folder, hidden, seconds, seed=0):
    import torch

    from likeli.models.rbm import RBM
    from likeli.spaces import Binary
    from likeli.training import fit

    train, _, test = load(folder)

    def trained(steps):
        torch.manual_seed(seed)
        model = RBM(Binary((784,)), hidden)
        begin = time.process_time()
        fit(model, train, seed=seed, steps=steps, progress=False)
        return model, time.process_time() - begin

    _, spent = trained(TRIAL)
    model, spent = trained(int(TRIAL * max(seconds - spent, 1) / spent))
    return judged(model, test, spent)


def peer(folder, hidden, seconds):
    import torch
    from sklearn.neural_network import BernoulliRBM

    from likeli.models.rbm import RBM
    from likeli.spaces import Binary

    train, _, test = load(folder)
    rows, begin = train.numpy().astype("float32"), time.process_time()
    theirs = BernoulliRBM(hidden, batch_size=100, random_state=0)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).numpy()
    while time.process_time() - begin < seconds:
        for start in range(0, len(rows), 100):
            theirs.partial_fit(rows[order[start : start + 100]])
            if time.process_time() - begin > seconds:
                break
    spent = time.process_time() - begin
    model = RBM(Binary((784,)), hidden)
    model.start(train)
    W = torch.from_numpy(theirs.components_.T.copy()).float()
    with torch.no_grad():  # E = −aᵀv − cᵀh − vᵀWh, without our centres
        model.mean.zero_()
        model.W.copy_(W)
        model.b.copy_(torch.from_numpy(theirs.intercept_visible_).float() + W.sum(1) / 2 - model.level)
        model.c.copy_(torch.from_numpy(theirs.intercept_hidden_).float())
    return judged(model, test, spent)

"""Importance-weighted evaluation of a VAE 784-300-300-40 with K = 5000 on binary MNIST: against pythae's `get_nll`.

Networks of the same layers at their start (the cost does not depend on the weights); pythae, which takes one digit at a time
and encodes it anew for every 250 weights, gets fewer digits.  Processor seconds, one thread each.
"""

import resource
import time

from benchmarks.vae import SIDES, load, pythae_model
from benchmarks.vae import prepare as prepare_digits
from likeli.models.vae import CoderBackbone

METRIC, HIGHER = "weights_per_second", True
VARIANTS = [{"samples": 5000}]
OURS, PEER = 250, 20


def prepare(folder, data):
    prepare_digits(folder, data)


def result(rows, samples, seconds, nats):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"weights_per_second": rows * samples / seconds, "nats": nats, "peak_gib": peak}


def ours(folder, samples):
    import torch

    from likeli.models.vae import VAE
    from likeli.spaces import Binary

    _, digits = load(folder)
    torch.manual_seed(0)
    model = VAE(Binary((784,)), SIDES[-1], CoderBackbone(SIDES[1:-1], activation="relu"))
    model.log_likelihood(digits[:OURS], samples=5)
    begin = time.process_time()
    value = model.log_likelihood(digits[:OURS], samples=samples).value
    return result(OURS, samples, time.process_time() - begin, value.mean().item())


def peer(folder, samples):
    import torch

    _, digits = load(folder)
    torch.manual_seed(0)
    model = pythae_model()
    begin = time.process_time()
    with torch.no_grad():
        nats = model.get_nll(digits[:PEER].float(), n_samples=samples, batch_size=250)
    return result(PEER, samples, time.process_time() - begin, float(nats))

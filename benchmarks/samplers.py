"""Samplers on exactly known scores: how far they end from where the exact flow ends, against the best of diffusers and azula.

Gaussian mixtures of 2, 64 and 768 dimensions, of unit variance, their denoiser in closed form; every method starts from the
same noise and may evaluate it 5, 10, 15, 20 or 35 times.  The distance is Euclidean, averaged over the starts and divided by
√D; the truth is an adaptive Runge-Kutta solution at a tolerance of 1e-10.  The peers' distance is the least over every
scheduler, order, grid and kind of end that `_schedulers.py` lists, chosen with the truth in hand; those that end at σ = 0 are
held against the exact flow there.  Ours is one fixed choice, `adams` on the `optimal` grid, which knows the schedule, the
dimension and that the data have unit variance, and nothing else of the mixture.  VP and VE differ in their range of σ/α alone,
since the flow in z/α is the same.
"""

import itertools
import math

METRIC = "distance"
VARIANTS = [{"d": d, "process": p, "nfe": n} for d in (2, 64, 768) for p in ("vp", "ve") for n in (5, 10, 15, 20, 35)]
STARTS = {2: 256, 64: 128, 768: 64}
LEVELS = 1000


def prepare(folder, data):
    """The exact ends of the flow, at the schedule's clean end and at σ = 0."""
    import numpy as np
    import torch

    from likeli.diffusion.probability_flow import solve

    for d, process in itertools.product((2, 64, 768), ("vp", "ve")):
        _, sigma = levels(process)
        denoise, z = mixture(d), torch.from_numpy(starts(d)) * sigma[-1]

        def slope(log_sigma, z, denoise=denoise):
            return z - denoise(z, log_sigma[0].exp().item())

        ends, before = [], math.log(sigma[-1])
        for after in (math.log(sigma[0]), math.log(1e-6)):
            z, before = solve(slope, z, before, after, rtol=1e-10, atol=1e-10).y, after
            ends.append(z.numpy())
        np.savez(folder / f"{d}{process}.npz", clean=ends[0], zero=ends[1])


def levels(process):
    """(ᾱ, σ/α), rising, of the T = 1000 levels: the linear β of DDPM, or EDM's range of σ, even in log σ."""
    import numpy as np

    if process == "vp":
        bar = np.cumprod(1 - np.linspace(1e-4, 0.02, LEVELS))
        return bar, np.sqrt((1 - bar) / bar)
    sigma = np.geomspace(0.002, 80, LEVELS)
    return 1 / (1 + sigma**2), sigma


def starts(d):
    """Standard normal noise, (B, d)."""
    import numpy as np

    return np.random.default_rng([d, 5]).standard_normal((STARTS[d], d))


def mixture(d):
    """(z, σ) → E[x | x + σ ε = z] of a mixture with means of spread 0.7 and spectra like those of images, 1/j^1.5."""
    import numpy as np
    import torch

    k, random = {2: 5, 64: 10, 768: 10}[d], np.random.default_rng(d)
    means, spectra = random.standard_normal((k, d)), np.tile(np.arange(1.0, d + 1) ** -1.5, (k, 1))
    spectra = random.permuted(spectra, axis=1) * np.exp(0.5 * random.standard_normal((k, 1)))
    weights, axes = random.dirichlet(5 * np.ones(k)), None
    means -= weights @ means
    means *= 0.7 / math.sqrt((weights @ means**2).mean())
    spectra *= 0.51 / (weights @ spectra).mean()
    if d < 100:
        axes = torch.from_numpy(np.linalg.qr(random.standard_normal((k, d, d)))[0])
    weights, means, spectra = (torch.from_numpy(v) for v in (weights, means, spectra))

    def turn(v, how):
        return v if axes is None else torch.einsum(how, axes, v)

    def denoise(z, sigma):
        variance = spectra + sigma**2
        whitened = turn(z[:, None] - means, "kij,bki->bkj")
        log_joint = weights.log() - 0.5 * (whitened.square() / variance + variance.log()).sum(-1)
        x = means + turn(spectra / variance * whitened, "kij,bkj->bki")
        return (log_joint.softmax(1)[..., None] * x).sum(1)

    return denoise


def distance(z, truth):
    """Mean Euclidean distance over √D."""
    return (z - truth).norm(dim=1).mean().item() / math.sqrt(z.shape[1])


def ours(folder, d, process, nfe):
    import numpy as np
    import torch

    from likeli.diffusion.denoiser import Denoise, Prediction
    from likeli.diffusion.sampler import trajectory
    from likeli.diffusion.schedule import VarianceExploding
    from likeli.diffusion.times import optimal
    from likeli.random import Ambient

    denoise, sigma = Counted(mixture(d)), levels(process)[1]
    schedule = VarianceExploding(float(sigma[0]), float(sigma[-1]))
    bound = Denoise(schedule, lambda z, at: Prediction.of_x(denoise(z, at.sigma), z, at.alpha, at.sigma))
    z = torch.from_numpy(starts(d)) * sigma[-1]
    *_, (_, z) = trajectory(bound, z, optimal(schedule, nfe, d), Ambient(z), "adams")
    assert denoise.calls == nfe
    return {"distance": distance(z, torch.from_numpy(np.load(folder / f"{d}{process}.npz")["clean"]))}


def peer(folder, d, process, nfe):
    import numpy as np
    import torch

    from benchmarks import _schedulers

    truth = {k: torch.from_numpy(v) for k, v in np.load(folder / f"{d}{process}.npz").items()}
    denoise, (bar, sigma) = mixture(d), levels(process)
    noise, best = torch.from_numpy(starts(d)), {}
    for name, run in _schedulers.methods(bar, sigma, nfe):
        counted = Counted(denoise)
        try:
            z, end = run(counted, noise)
        except (ValueError, IndexError, AssertionError, RuntimeError):
            continue
        if counted.calls <= nfe and (found := distance(z, truth[end])) < best.get(name, math.inf):
            best[name] = found
    return {"distance": min(best.values())} | best


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, z, sigma):
        self.calls += 1
        return self.function(z, float(sigma))

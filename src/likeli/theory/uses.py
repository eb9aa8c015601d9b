"""What models are for: samples, features, strange rows, holes; each against a truth that is known or a yardstick."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from likeli.data import load_data
from likeli.data.builtin.toys import gmm_draw, ring8
from likeli.evaluation.collapse import diagnose_latents
from likeli.evaluation.rows import anomaly
from likeli.evaluation.two_sample import c2st, roc_area
from likeli.latent.codes import arithmetic, decode_codes, embed, interpolate, reconstruct, traverse
from likeli.models.autoencoder import AE
from likeli.models.gmm import GMM
from likeli.models.vae import VAE, CoderBackbone
from likeli.random import seeded
from likeli.spaces import Gaussian, Labels, Real
from likeli.theory.check import identity
from likeli.theory.truth import as_vae, fitted_ppca, linear_data
from likeli.training import fit


@identity("R33", title="AUC from data: decoded N(0, I) of an AE − draws of a VAE: short of 0.2 by", tolerance=0, slow=True)
def decoding_the_prior() -> float:
    """The autoencoder's decodes get the VAE's own noise, so that its missing noise is not what gives them away."""
    x, fresh = _band(4000, 0), _band(3000, 1)
    with seeded(0, "band"):
        ae, vae = AE(Real((4,)), 2, hidden=(32, 32)), VAE(Real((4,)), 2, CoderBackbone((32, 32)), head=Gaussian("learned"))
        z, e = torch.randn(3000, 2), torch.randn(3000, 4)
    for model in (ae, vae):
        fit(model, x, steps=2500, batch=256, lr=4e-3, progress=False)
    decoded = decode_codes(ae, z) + vae.head.log_width.exp().item() * e
    (holes, a), (covered, b) = c2st(decoded, fresh), c2st(vae.sample(3000), fresh)
    return max(0.0, 0.2 + 4 * math.hypot(a, b) - (holes - covered))


def _band(n: int, seed: int) -> Tensor:
    """A closed, bent band in four dimensions, (n, 4), a little noisy: its codes leave a hole in the middle."""
    with seeded(seed, "band"):
        angle, across, e = 2 * math.pi * torch.rand(n), torch.rand(n) - 0.5, torch.randn(n, 4)
    radius = 2 + across
    x = [radius * angle.cos(), radius * angle.sin(), (2 * angle).sin(), across * angle.cos()]
    return torch.stack(x, 1) + 0.1 * e


@identity("R34", title="digits in 4 numbers: accuracy of a linear probe on PCA's − on a VAE's code", tolerance=0, slow=True)
def codes_beat_pca() -> float:
    data = load_data("digits", fractions=(0.6, 0.1, 0.3))
    (x, y), (x_test, y_test) = data.split("train"), data.split("test")
    assert y is not None
    assert y_test is not None
    with seeded(0, "digits"):
        vae = VAE(data.space, 4, CoderBackbone((128,)))
    fit(vae, data, steps=1500, batch=128, progress=False)
    pca = PCA(4).fit(x.flatten(1).numpy())
    codes = [[embed(vae, v).numpy(), pca.transform(v.flatten(1).numpy())] for v in (x, x_test)]
    ours, theirs = (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(a, y.numpy()).score(b, y_test.numpy())
        for a, b in zip(*codes)
    )
    return max(0.0, theirs - ours)


@identity("R36", title="one turn of a Swiss roll in one number: 0.9 − |Spearman| with arc length", tolerance=0, slow=True)
def roll_is_unrolled() -> float:
    """On fresh rows; the error of reconstruction must be what one number has to leave, the height's variance, within 5 %."""
    (x, _), (fresh, arc) = _roll(3000, 0), _roll(1000, 1)
    space = Real((3,), tuple(x.mean(0).tolist()), x.std().item())
    with seeded(0):
        vae = VAE(space, 1, CoderBackbone((64, 64)))
    fit(vae, x, steps=2000, batch=256, lr=8e-3, progress=False)
    rank = abs(stats.spearmanr(embed(vae, fresh)[:, 0], arc).statistic)
    left = (reconstruct(vae, fresh) - fresh).square().sum(1).mean().item()
    return max(0.0, 0.9 - rank, left - 1.05 * 16 / 12)


def _roll(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A rolled-up strip of height 4, (n, 3), with noise of 0.1, and the arc length of each row."""
    with seeded(seed, "roll"):
        t, height, e = 1.5 * math.pi + 2 * math.pi * torch.rand(n), 4 * torch.rand(n), torch.randn(n, 3)
    return torch.stack([t * t.cos(), height, t * t.sin()], 1) + 0.1 * e, 0.5 * (t * (1 + t * t).sqrt() + t.asinh())


@identity("R35", title="strange rows: AUROC of a fitted mixture = that of the true density, in s.e.", tolerance=3)
def strange_rows_are_found() -> float:
    truth = ring8()
    model, ordinary = _fitted_mixture(truth.sample(3000, 1)), truth.sample(1000, 2)
    strange = 8 * torch.rand(1000, 2, dtype=torch.float64) - 4
    detector = anomaly(model, truth.sample(500, 3))
    auc, stderr = roc_area(*(detector(rows).score.numpy() for rows in (ordinary, strange)))
    best, _ = roc_area(*(-truth.log_prob(rows).numpy() for rows in (ordinary, strange)))
    return abs(auc - best) / stderr


@identity("R35", "R10", title="false alarms of a detector = the rate asked for, whatever the model, in s.e.", tolerance=4)
def false_alarms_are_as_stated() -> float:
    truth = ring8()
    with seeded(0, "useless"):
        models = [_fitted_mixture(truth.sample(500, 1), 2), VAE(Real((2,)), 1, CoderBackbone((4,)))]
    worst = 0.0
    for model, options in zip(models, ({}, {"samples": 2})):
        for rate in (0.01, 0.1):
            detector = anomaly(model, truth.sample(999, 2), rate=rate, **options)
            found = detector(truth.sample(3000, 3)).flagged.double().mean().item()
            worst = max(worst, abs(found - rate) / math.sqrt(rate * (1 - rate) * (1 / 3000 + 1 / 1001)))
    return worst


def _fitted_mixture(x: Tensor, components: int = 8) -> GMM:
    model = GMM(Real((2,)), components)
    for _ in model.em(x):
        pass
    return model


@identity("R47", "I34", title="90 % intervals of a mixture's imputed cells cover 90 % of the truth, in s.e.", tolerance=4)
def imputed_intervals_cover() -> float:
    """Of 199 exact draws and the truth the ranks are uniform: the tenth least and largest draw hold it with chance 0.9."""
    truth = gmm_draw(4, 3)
    model = GMM.from_parameters(Real((4,)), truth.weights, truth.means, truth.covariances)
    x = truth.sample(1000)
    hole = torch.arange(1000) % 4
    rows, other, holed = torch.arange(1000), torch.arange(0, 1000, 2), x.clone()
    holed[rows, hole] = math.nan
    holed[other, (hole[other] + 1) % 4] = math.nan  # every other row has lost more than the cell that is judged
    draws = model.sample_conditional(holed, 199)[:, rows, hole].sort(0).values
    kept = x[rows, hole]
    covered = ((draws[9] <= kept) & (kept <= draws[-10])).double().mean().item()
    return abs(covered - 0.9) / math.sqrt(0.09 / 1000)


@identity("R108", title="1 % of p and 99 % of noise: fewer than log 100 nats lost, and 0.95 − AUC from data", tolerance=0)
def likelihood_is_not_sample_quality() -> float:
    eye = torch.eye(2, dtype=torch.float64)
    good = GMM.from_parameters(Real((2,)), [1.0], torch.zeros(1, 2), 0.01 * eye[None])
    bad = GMM.from_parameters(Real((2,)), [0.01, 0.99], torch.zeros(2, 2), torch.stack([0.01 * eye, 100 * eye]))
    x = good.sample(500)
    loss = (good.log_likelihood(x).value - bad.log_likelihood(x).value).max().item()
    return max(0.0, loss - math.log(100) - 1e-12, 0.95 - c2st(bad.sample(500, seed=1), x)[0])


@identity("R43", title="both ends of an interpolation are the reconstructions", tolerance=1e-10)
def interpolation_ends() -> float:
    x = linear_data(50, 5)
    model = fitted_ppca(x, 2)
    z, ends = embed(model, x[:2]), reconstruct(model, x[:2])
    walks = [decode_codes(model, interpolate(z[0], z[1], 6, path)) for path in ("linear", "spherical")]
    return max((walk[[0, -1]] - ends).abs().max().item() for walk in walks)


@identity("R44", title="linear decoder: a − b + c in codes is a − b + c in reconstructions", tolerance=1e-10)
def code_arithmetic() -> float:
    x = linear_data(50, 5)
    model = fitted_ppca(x, 2)
    a, b, c = embed(model, x[:3])
    mean = reconstruct(model, x[:3])
    return (decode_codes(model, arithmetic([a, c], [b])[None])[0] - (mean[0] - mean[1] + mean[2])).abs().max().item()


@identity("R41", "R42", title="I_q(x; z) of the exact linear posterior = ½ log det(I + WᵀW/σ²), in nats", tolerance=0.15)
def latent_information() -> float:
    x = linear_data(1500, 4, 2, noise=1.5)
    ppca = fitted_ppca(x, 2)
    found = diagnose_latents(as_vae(ppca), x, draws=1, rows=1500)
    truth = 0.5 * torch.logdet(torch.eye(2, dtype=torch.float64) + ppca.W.T @ ppca.W / ppca.variance).item()
    assert found.information is not None
    assert found.mismatch is not None
    return max(abs(found.information - truth), abs(found.mismatch))


@identity("R42", title="codes in two heaps under one Gaussian prior: KL(q̄‖p) below the alarm's 0.1 nats by", tolerance=0)
def two_heaps_are_a_mismatch() -> float:
    heaps = torch.where(torch.arange(800) % 2 == 0, 2.0, -2.0)[:, None].double()
    x = heaps @ torch.ones(1, 4, dtype=torch.float64) + 0.3 * torch.randn(800, 4, dtype=torch.float64)
    found = diagnose_latents(as_vae(fitted_ppca(x, 1)), x, draws=1)
    return max(0.0, 0.1 - (found.mismatch or 0.0)) + float(not any("prior mismatch" in a for a in found.alarms))


SIDE, KINDS = 10, 3
SLANT, PLACE = 0.5, 0.2  # standard deviations


@identity("R45", title="y fixed, two latents traversed: each moves a known factor: 0.8 − worst |Spearman|", tolerance=0)
def traversal_moves_a_factor() -> float:
    """A latent that moves no factor by its standard deviation counts as one that is not monotone."""
    model, steps = _trained(), torch.linspace(-2, 2, 9)
    worst = 1.0
    for kind in range(KINDS):
        for dim in range(2):
            x = decode_codes(model, traverse(torch.zeros(2), [dim], steps), torch.tensor([kind]))
            moved = [(v, s) for v, s in zip(_factors(x), (SLANT, PLACE)) if v.max() - v.min() > s]
            worst = min(worst, max([abs(stats.spearmanr(steps, v).statistic) for v, _ in moved], default=0.0))
    return max(0.0, 0.8 - worst)


@identity("R46", title="z fixed, y varied: the slant goes along: 0.7 − least correlation between kinds", tolerance=0)
def style_is_kept() -> float:
    model = _trained()
    x, y, _, _ = _strokes(300, 1)
    z = embed(model, x, y)
    slants = np.stack([_factors(decode_codes(model, z, torch.tensor([kind])))[0] for kind in range(KINDS)])
    return max(0.0, 0.7 - np.corrcoef(slants).min())


@identity("R46", title="z fixed, y varied: the kind becomes what was asked for: 0.95 − least share", tolerance=0)
def kind_is_what_was_asked() -> float:
    model = _trained()
    x, y, _, _ = _strokes(200, 2)
    z = embed(model, x, y)
    right = [(_kind(decode_codes(model, z, torch.tensor([kind]))) == kind).double().mean() for kind in range(KINDS)]
    return max(0.0, 0.95 - min(right).item())


@identity("R44", title="codes: leaning left + (leaning right − leaning left) leans right: 0.9 − share of flips", tolerance=0)
def arithmetic_flips_an_attribute() -> float:
    model, kind = _trained(), torch.tensor([0])
    slant, place = torch.full((100,), 0.6), PLACE * torch.linspace(-1.5, 1.5, 100)
    zero = torch.zeros(100, dtype=torch.int64)
    left, right = (embed(model, _draw(s * slant, place, zero), kind) for s in (-1, 1))
    direction = arithmetic([right.mean(0)], [left.mean(0)])
    flipped = _factors(decode_codes(model, torch.stack([arithmetic([z, direction]) for z in left]), kind))[0]
    return max(0.0, 0.9 - (flipped > 0.3).double().mean().item())


@functools.cache
def _trained() -> VAE:
    x, y, _, _ = _strokes(3000, 0)
    with seeded(0, "strokes"):
        model = VAE(Real((SIDE, SIDE)), 2, CoderBackbone((64, 64)), head=Gaussian("learned"), condition=Labels(KINDS))
    fit(model, x, y, steps=900, batch=128, progress=False)
    return model.eval()


def _strokes(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy pictures (n, side, side), kinds (n,), slants and places (n,)."""
    with seeded(seed, "strokes"):
        slant, place = SLANT * torch.randn(n).clamp(-2, 2), PLACE * torch.randn(n).clamp(-2, 2)
        kind = torch.randint(KINDS, (n,))
        return _draw(slant, place, kind) + 0.05 * torch.randn(n, SIDE, SIDE), kind, slant, place


def _draw(slant: Tensor, place: Tensor, kind: Tensor) -> Tensor:
    """One bar, two bars, or a cross, (n, side, side)."""
    v, u = _axes()
    u = u - place[:, None, None] - slant[:, None, None] * v
    bar = (-(u / 0.18).square()).exp()
    two = (-((u - 0.35) / 0.18).square()).exp() + (-((u + 0.35) / 0.18).square()).exp()
    cross = bar * (-(v / 0.6) ** 4).exp() + 0.8 * (-(v / 0.2).square()).exp() * (-((u / 0.6) ** 4)).exp()
    return torch.stack([bar, two, cross], 1)[torch.arange(len(kind)), kind]


def _axes() -> tuple[Tensor, Tensor]:
    line = torch.linspace(-1, 1, SIDE)
    return line[:, None], line[None, :]


def _factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Slant and place of pictures by their moments, (n,) each."""
    v, u = _axes()
    w = x.clamp(min=0)
    w = w / w.sum((1, 2), keepdim=True)
    place = (w * u).sum((1, 2))
    dv, du = v - (w * v).sum((1, 2))[:, None, None], u - place[:, None, None]
    return (w * du * dv).sum((1, 2)) / (w * dv * dv).sum((1, 2)), place


def _kind(x: Tensor) -> Tensor:
    """The kind of the clean stroke nearest to each picture, over a grid of slants and places."""
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 21), torch.linspace(-0.4, 0.4, 17))
    clean = [_draw(grid[:, 0], grid[:, 1], torch.full((len(grid),), kind)) for kind in range(KINDS)]
    return torch.stack([torch.cdist(x.flatten(1), c.flatten(1)).min(1).values for c in clean], 1).argmin(1)

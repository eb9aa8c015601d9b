"""The Gaussian nearest to any density, by either KL.

    forward   min_q KL(p‖q):  the mean and covariance of p, so q covers every mode
    reverse   min_q KL(q‖p):  a local optimum that avoids what p avoids, so q sits on one mode
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D

from likeli.errors import Unsupported, require

LogDensity = Callable[[Tensor], Tensor]
GRID = {1: 4001, 2: 601}  # points an axis for the forward moments
NODES = {1: 40, 2: 20, 3: 12}  # Gauss–Hermite nodes an axis for the reverse expectation


def fit_gaussian(
    log_p: LogDensity | D.Distribution,
    direction: Literal["forward", "reverse"],
    *,
    box: Sequence[tuple[float, float]] | None = None,
    samples: Tensor | None = None,
    start: D.MultivariateNormal | None = None,
) -> D.MultivariateNormal:
    """The Gaussian q that minimises KL(p‖q) or KL(q‖p).

    Arguments:
        log_p: log density, (n, d) → (n,), or a distribution; unnormalised is enough.
        direction: forward matches moments; reverse seeks a mode.
        box: (low, high) of each of one or two axes, outside which p is nothing: the forward moments are integrals over it.
        samples: (n, d) draws of p in place of the box, for any d; the forward fit is then the maximum-likelihood one.
        start: where the reverse fit begins; the standard normal of the box's or samples' dimension if not given.

    Raises:
        InputError: neither box nor samples nor start says what the dimension is.
        Unsupported: a forward fit over a box of more than two axes.
    """
    require(direction in ("forward", "reverse"), "direction", "forward or reverse", direction)
    known = box is not None or samples is not None or (direction == "reverse" and start is not None)
    require(known, "box", "a box or samples", "neither")
    density = _rows(log_p)
    if direction == "forward":
        return D.MultivariateNormal(*(_sample_moments(samples) if samples is not None else _box_moments(density, box or [])))
    if start is None:
        d = samples.shape[1] if samples is not None else len(box or [])
        start = D.MultivariateNormal(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    return _reverse(density, start)


def _rows(log_p: LogDensity | D.Distribution) -> LogDensity:
    if not isinstance(log_p, D.Distribution):
        return log_p
    scalar = not log_p.event_shape
    return lambda x: log_p.log_prob(x[:, 0] if scalar else x)


def _sample_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    require(x.ndim == 2 and len(x) > x.shape[1], "samples", "more rows than columns, (n, d)", tuple(x.shape))
    x = x.double()
    centred = x - x.mean(0)
    return x.mean(0), centred.T @ centred / len(x)


def _box_moments(log_p: LogDensity, box: Sequence[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Mean and covariance by the trapezoidal rule, which is spectrally accurate for a smooth p that vanishes at the edges."""
    if len(box) not in GRID:
        raise Unsupported(f"moments over a box of {len(box)} axes: give samples of p instead")
    require(all(low < high for low, high in box), "box", "low < high on each axis", box)
    axes = [torch.linspace(low, high, GRID[len(box)], dtype=torch.float64) for low, high in box]
    x = torch.cartesian_prod(*axes).reshape(-1, len(box))
    w = log_p(x).double().softmax(0)
    mean = w @ x
    return mean, (x - mean).T @ (w[:, None] * (x - mean))


def _reverse(log_p: LogDensity, start: D.MultivariateNormal) -> D.MultivariateNormal:
    """L-BFGS on E_q[log q − log p] over the mean and the triangle, at fixed nodes, so that the optimum is one of a function."""
    d = start.event_shape[0]
    nodes, weights = _standard_normal_nodes(d)
    mean = start.loc.double().clone().requires_grad_()
    factor = start.scale_tril.double().clone()
    raw = (factor.tril(-1) + factor.diagonal().log().diag()).requires_grad_()

    def tril() -> Tensor:
        return raw.tril(-1) + raw.diagonal().exp().diag()

    optimiser = torch.optim.LBFGS([mean, raw], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        energy = (weights * log_p(mean + nodes @ tril().T)).sum()
        loss = -raw.diagonal().sum() - energy
        loss.backward()
        return loss

    optimiser.step(closure)
    return D.MultivariateNormal(mean.detach(), scale_tril=tril().detach())


def _standard_normal_nodes(d: int) -> tuple[Tensor, Tensor]:
    """Points (n, d) and weights (n,) for E f(ε), ε ~ N(0, I): Gauss–Hermite to three axes, scrambled Sobol beyond."""
    if d in NODES:
        e, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(NODES[d]))
        grid = torch.tensor(list(itertools.product(range(len(e)), repeat=d)))
        return e[grid], (w / w.sum())[grid].prod(1)
    u = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(2048, dtype=torch.float64)
    return torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9)), torch.full((2048,), 1 / 2048, dtype=torch.float64)

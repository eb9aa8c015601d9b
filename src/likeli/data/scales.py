"""Where the numbers of a column stand: mean and scale, the stretch of heavy tails, and what is odd about them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from likeli.spaces.marginal import FEWEST_ROWS

FAR = 15.0  # standard deviations from the mean: a million exponential rows stay within, a thousand of Student's t₁ do not
SPIKE = 0.05  # of the rows that share one value, from which a density of reals is said to have no bound


def standardisation(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and whether constant of each column of x (n, d) float64, missing cells left out; a constant has scale 1.

    The mean is taken from the smallest value up and deviations are divided by the largest before they are squared, so that
    neither a large offset nor a tiny or huge scale costs digits.
    """
    seen = ~x.isnan()
    count = seen.sum(0).clamp(min=1)
    low = torch.where(seen, x, torch.inf).amin(0).nan_to_num(posinf=0.0)
    mean = low + torch.where(seen, x - low, 0).sum(0) / count
    deviation = torch.where(seen, x - mean, 0)
    largest = deviation.abs().amax(0)
    constant = (torch.where(seen, x, -torch.inf).amax(0) <= low) | (largest == 0)
    unit = torch.where(constant, 1.0, largest)
    scale = unit * ((deviation / unit).square().sum(0) / count).sqrt()
    return torch.where(constant, low, mean), torch.where(constant | (scale == 0), 1.0, scale), constant


def column_warnings(x: Tensor, scale: Tensor, constant: Tensor, heavy: Tensor, names: Sequence[str], what: str) -> list[str]:
    """What is odd about the training rows x (n, d): constant, empty, tiny, huge, heavy-tailed columns, holes, few rows."""
    gone = x.isnan().sum(0)
    far = ((scale < 1e-12) | (scale > 1e12)) & ~constant
    odd = [
        (constant, "constant in the training rows"),
        (far, "of a scale far from 1; it is standardised in float64, but rescaling is safer"),
        (((x.abs() < 1e-300) & (x != 0)).any(0), "holding numbers below 1e-300, which lose digits"),
        (heavy, f"with values {FAR:g} standard deviations out, so seen as asinh((x − m)/s); kind='real:linear' keeps x"),
        (gone > 0, f"missing in some rows ({int(gone.sum())} cells), kept as missing; samples are complete rows"),
    ]
    found = []
    for which, text in odd:
        hit = [names[i] for i in torch.nonzero(which)[:, 0].tolist()]
        found += [f"{what}: column{'s' * (len(hit) > 1)} {_listed(hit, 5)}: {text}"] * bool(hit)
    n, d = x.shape
    return found + [f"{what}: {n} training rows for {d} columns; a full covariance will need regularisation"] * (n <= d)


def stretching(x: Tensor) -> tuple[float, float]:
    """Median m and scale s at which asinh((x − m)/s) of the values x (n,) has a standard deviation of 1."""
    middle = x.median().item()
    deviation = x - middle
    low, high = deviation.abs().max().log().item() - 80, deviation.abs().max().log().item() + 1
    for _ in range(60):  # halvings of an interval in log s, in which the deviation falls
        log_s = (low + high) / 2
        wide = (deviation / math.exp(log_s)).asinh().std().item() > 1
        low, high = (log_s, high) if wide else (low, log_s)
    return middle, math.exp(high)


def column_faults(x: Tensor, names: tuple[str, ...], what: str) -> list[str]:
    """Why a density of the real rows x (n, d) has no bound: values that many rows share, columns that are the same."""
    n, d = x.shape
    found, spikes = [], []
    for i in range(d):
        values, counts = x[:, i][~x[:, i].isnan()].unique(return_counts=True)
        if len(values) > 1 and int(counts.max()) > max(SPIKE * n, FEWEST_ROWS):
            spikes.append(f"{names[i]} ({values[counts.argmax()]:g} in {counts.max() / n:.0%})")
    if spikes:
        told = "many rows share one value, so a density has no bound; kind='table' gives such values a mass of their own"
        found.append(f"{what}: {told}: {_listed(spikes, 3)}")
    rows = x[:4096].nan_to_num(0)
    unit = (rows - rows.mean(0)) / (rows - rows.mean(0)).norm(dim=0)
    first: dict[bytes, int] = {}
    for i, column in enumerate(unit.mul(1e6).round().nan_to_num(0).int().T.contiguous()):
        same = first.setdefault(column.numpy().tobytes(), i)
        if same != i and column.any():
            found.append(f"{what}: columns {names[same]} and {names[i]} differ by units only: a density has no bound; drop one")
    return found


def _listed(texts: Sequence[str], most: int) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")

"""What a set of importance weights is worth: effective sample size, largest weight, Pareto k̂.

An average of weights has a standard error only if their variance is finite, k < ½ (smoothed ones would do with 0.7; these are
not smoothed).  All see only where draws fell: a proposal that misses a whole region of the posterior can look well and be too
low (with planted bad encoders, 0.9 % of the rows that were more than a nat off).

Weights are logarithms, (K, B): K draws for each of B rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_ESS, MAX_PARETO_K, MAX_SHARE = 10.0, 0.5, 0.1
MISSED = 3.0  # times the largest weight's excess that an average of weights may have missed


@dataclass(frozen=True)
class Diagnostics:
    """One number a row.

    Arguments:
        ess: (B,) effective sample size (Σw)²/Σw², from 1 to K.
        max_weight: (B,) the largest weight's share of the sum.
        pareto_k: (B,) shape of the weights' tail; the variance is finite below ½, the mean below 1.
    """

    ess: Tensor
    max_weight: Tensor
    pareto_k: Tensor

    @property
    def trusted(self) -> Tensor:
        """(B,) whether ESS ≥ 10, k̂ ≤ ½ and no weight is above a tenth of the sum."""
        return (self.ess >= MIN_ESS) & (self.pareto_k <= MAX_PARETO_K) & (self.max_weight <= MAX_SHARE)

    def complaint(self) -> str:
        """What is wrong, in one line; empty when nothing is."""
        bad = ~self.trusted
        if not bad.any():
            return ""
        return (
            f"{int(bad.sum())} of {len(bad)} rows cannot be called estimates: effective sample size down to "
            f"{self.ess.min():.1f} (at least {MIN_ESS:g} wanted), Pareto k up to {self.pareto_k.max():.2f} "
            f"(at most {MAX_PARETO_K:g}), largest weight up to {self.max_weight.max():.0%} (at most {MAX_SHARE:.0%}); "
            "the value is biased low there"
        )


def diagnose(log_w: Tensor) -> Diagnostics:
    """Diagnostics of log weights (K, B)."""
    w = log_w.double().softmax(0)
    return Diagnostics(1 / w.square().sum(0), w.max(0).values, pareto_k(log_w))


def pareto_k(log_w: Tensor) -> Tensor:
    """Shape k̂ of a generalised Pareto distribution fitted to the largest weights, (K, B) → (B,).

    The tail holds min(K/5, 3√K) weights.  With θ = k/σ, k(θ) = mean log(1 + θ·excess) and profile log-likelihood
    n(log(θ/k) − k − 1), θ is averaged over a grid by likelihood, and k̂ is drawn towards ½ by ten prior observations.  Fewer
    than five tail weights say nothing: +∞.  Equal weights have no tail: 0.

    Source: Zhang & Stephens (2009), Technometrics 51(3); Vehtari et al. (2015), arXiv:1507.02646.
    """
    draws = len(log_w)
    n = int(min(draws / 5, 3 * math.sqrt(draws)))
    if n < 5:
        return torch.full_like(log_w[0], math.inf)
    w = (log_w.double() - log_w.double().max(0).values).exp().sort(0).values
    excess = w[-n:] - w[-n - 1]
    flat = excess[-1] <= 1e-12
    excess = torch.where(flat, 1.0, excess.clamp(min=1e-300))
    quartile = excess[max(int(n / 4 + 0.5) - 1, 0)]
    m = 30 + int(math.sqrt(n))
    steps = torch.arange(1, m + 1, dtype=torch.float64, device=log_w.device)[:, None]
    theta = ((m / (steps - 0.5)).sqrt() - 1) / (3 * quartile) - 1 / excess[-1]  # (m, B), each above −1/max excess
    k = (theta[:, None] * excess).log1p().mean(1)
    profile = n * ((theta / k).log() - k - 1)
    weight = profile.nan_to_num(-math.inf).softmax(0)
    best = (theta * weight).sum(0)
    k_hat = (best * excess).log1p().mean(0)
    return torch.where(flat, 0.0, (n * k_hat + 5) / (n + 10)).to(log_w.dtype)


def log_mean_exp(draws: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """log (1/K) Σ_k w_k and its standard error, from K tensors of log w of one shape.

    The error is √(δ² + 9 (largest share − 1/K)²) or sd(log w)/√ESS, whichever is larger.  δ = sd(w)/(mean(w) √K) is that of the
    delta method, which holds for many draws; K weights that have missed the tail look alike and are too low, by more than
    Student's t allows in up to 13 % of rows.  So what the largest added to the sum is counted three times over, which δ
    outgrows as K rises, and where few weights make up the sum the number is about the largest log w.

    Draws are taken one at a time (means and variances by Welford's update, rescaled when the largest weight so far is passed),
    so that memory does not grow with K.
    """
    top, mean, spread, k, dtype = torch.zeros(()), torch.zeros(()), torch.zeros(()), 0, torch.float32
    seen, centre, square = torch.zeros(()), torch.zeros(()), torch.zeros(())  # of log w where it is finite
    for given in draws:
        k, dtype = k + 1, given.dtype
        log_w, finite = given.double().clamp(min=-1e300), given.isfinite()
        seen = seen + finite
        gap = torch.where(finite, log_w - centre, 0)
        centre = centre + gap / seen.clamp(min=1)
        square = square + gap * torch.where(finite, log_w - centre, 0)
        if k == 1:
            top, mean, spread = log_w, torch.ones_like(log_w), torch.zeros_like(log_w)
            continue
        higher = torch.maximum(top, log_w)
        shrink = (top - higher).exp()
        w, mean, spread, top = (log_w - higher).exp(), mean * shrink, spread * shrink.square(), higher
        delta = w - mean
        mean = mean + delta / k
        spread = spread + delta * (w - mean)
    stderr = (spread / (k - 1) / k).sqrt() / mean if k > 1 else torch.full_like(mean, math.nan)
    if k > 1:  # weights are in units of the largest: its share is 1/(mean · k)
        ess = k * mean.square() / (spread / k + mean.square())
        stderr = torch.hypot(stderr, MISSED * (1 - mean) / (mean * k))
        stderr = torch.maximum(stderr, (square / (seen - 1).clamp(min=1) / ess).sqrt())
    value = top + mean.log()
    return value.masked_fill(value < -1e299, -math.inf).to(dtype), stderr.to(dtype)

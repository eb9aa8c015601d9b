"""log Z by annealed importance sampling from both ends of a path, so that it stands between two numbers.

On a path of unnormalised densities f_0, …, f_K with Z_0 known, chains that start from p_0 and are moved by T_k, which leaves
p_k = f_k/Z_k as it is, carry

    log w = Σ_k log f_k(u_{k−1}) − log f_{k−1}(u_{k−1}),    E w = Z_K / Z_0.

The mean of w falls short of Z rather than above it: P(ŵ > aZ) < 1/a.  Chains that start from p_K and walk back carry the same
sum, and E 1/w = Z_0 / Z_K, so that theirs errs to the other side.  Bennett's estimate is the c that no test tells apart,
Σ σ(log w − c) over the way there = Σ σ(c − log w) over the way back.

Source: Neal (2001), Statistics and Computing 11; Bennett (1976); Grosse, Ancha & Roy (2016), arXiv:1606.02275.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from likeli.errors import Diverged, require
from likeli.probability.importance import log_mean_exp
from likeli.random import Ambient, Noise

ONE_SIDED = 1.6449  # standard errors that one end is moved out by: 95 % each, so 90 % for both
FEWEST_ESS = 10.0  # below, a standard error of a mean of weights says nothing


class Path(Protocol):
    """Densities from one that is known, at β = 0, to the one that is wanted, at β = 1."""

    @property
    @abstractmethod
    def log_z0(self) -> Tensor:
        """log Z of the base, β = 0."""
        ...

    @abstractmethod
    def base(self, noise: Noise) -> Tensor:
        """Exact draws of p_0, (noise.rows, …)."""
        ...

    @abstractmethod
    def log_f(self, u: Tensor, beta: float = 1.0) -> Tensor:
        """log f_β(u), (B, …) → (B,)."""
        ...

    @abstractmethod
    def move(self, u: Tensor, beta: float, noise: Noise) -> Tensor:
        """One step of a reversible chain that leaves p_β as it is."""
        ...


@dataclass(frozen=True)
class LogZ:
    """What is known of log Z, in nats of the model's units.

    Arguments:
        value: Bennett's estimate, or log Z itself.
        stderr: its standard error over chains; 0 if exact.
        low, high: between them log Z lies with 90 % chance, if the draws that the way back started from are draws of the model.
        ess: effective sample size of the weights, there and back, of `chains`; the smaller one.
        chains: on each way.
    """

    value: float
    stderr: float
    low: float
    high: float
    ess: float
    chains: int

    @property
    def exact(self) -> bool:
        """Whether it was counted and not drawn."""
        return self.chains == 0

    @property
    def complaint(self) -> str:
        """Why it should not be believed; empty where nothing speaks against it."""
        if self.exact:
            return ""
        if self.ess < FEWEST_ESS:
            few = f"the weights' effective sample size is {self.ess:.1f} of {self.chains}"
            return f"{few} (at least {FEWEST_ESS:g} wanted): more temperatures are needed"
        if self.low > self.high:
            return f"the two ends contradict each other ({self.low:.2f} > {self.high:.2f}): the chains do not reach every mode"
        return ""

    def __str__(self) -> str:
        if self.exact:
            return f"log Z = {self.value:.4f}, by enumeration"
        about = f"log Z = {self.value:.3f} ± {self.stderr:.2g}, between {self.low:.3f} and {self.high:.3f} (90 %)"
        return f"{about}; effective sample size {self.ess:.0f} of {self.chains}"


def anneal(path: Path, u: Tensor, betas: Tensor, noise: Noise, *, back: bool = False) -> tuple[Tensor, Tensor]:
    """Walk the path and weigh: log w (B,) float64 and where the chains ended.

    Arguments:
        path: the densities.
        u: draws of p_0, or of p_1 if `back`.
        betas: (K + 1,), from 0 to 1.
        noise: where random numbers come from.
        back: start at β = 1.

    Raises:
        Diverged: an energy is not finite; the temperature is named.
    """
    log_w, steps = torch.zeros(len(u), dtype=torch.float64, device=u.device), betas.tolist()
    order = range(1, len(steps))
    for k in reversed(order) if back else order:
        step = path.log_f(u, steps[k]).double() - path.log_f(u, steps[k - 1]).double()
        if not bool(step.isfinite().all()):
            raise Diverged(f"annealing: the energy is not finite at β = {steps[k]:.4g}, step {k} of {len(steps) - 1}")
        log_w += step
        at = steps[k - 1] if back else steps[k]
        if 0 < at < 1 or (at == 1 and not back):
            u = path.move(u, at, noise)
    return log_w, u


def both_ends(path: Path, betas: Tensor, chains: int, like: Tensor, *, mixing: int, top: Tensor | None = None) -> LogZ:
    """log Z of the path's end at β = 1, from torch's ambient generator.

    Arguments:
        path: the densities.
        betas: (K + 1,), from 0 to 1.
        chains: on each way.
        like: a tensor of the type and device to compute in.
        mixing: moves at β = 1 before the way back starts, from where the way there ended, drawn by weight.
        top: (chains, …) exact draws of p_1 to start the way back from, where there are.
    """
    require(chains >= 2, "chains", "at least 2", chains)
    require(len(betas) >= 2, "temperatures", "at least 1", len(betas) - 1)
    noise = Ambient(like, chains)
    with torch.no_grad():
        there, u = anneal(path, path.base(noise), betas, noise)
        if top is None:
            u = u[torch.multinomial(there.softmax(0), chains, replacement=True)]
            for _ in range(mixing):
                u = path.move(u, 1.0, noise)
        back, _ = anneal(path, u if top is None else top, betas, noise, back=True)
    return bracket(there, back, path.log_z0.item())


def bracket(there: Tensor, back: Tensor, log_z0: float) -> LogZ:
    """log Z from the log weights of both ways, (n,) each.

    The ends are moved out to hold Bennett's 90 % too, unless they pass each other by more than chance does.
    """
    low, low_error = (v.item() for v in log_mean_exp(there))
    high, high_error = (v.item() for v in log_mean_exp(-back))
    value, stderr = bennett(there, back)
    ess = min(1 / w.softmax(0).square().sum().item() for w in (there, -back))
    low, high = low - ONE_SIDED * low_error, -high + ONE_SIDED * high_error
    if low - high < 2 * stderr:
        low, high = min(low, value - ONE_SIDED * stderr), max(high, value + ONE_SIDED * stderr)
    return LogZ(log_z0 + value, stderr, log_z0 + low, log_z0 + high, ess, len(there))


def bennett(there: Tensor, back: Tensor) -> tuple[float, float]:
    """The root c of Σ σ(log w − c) over `there` = Σ σ(c − log w) over `back`, equally many, and its standard error.

    var c = 1/Σ σ(x)σ(−x) − 2/n over both, x = log w − c: that of a logistic regression of the way on log w.

    Source: Bennett (1976), J. Comp. Physics 22; Shirts et al. (2003), Phys. Rev. Lett. 91.
    """
    both = torch.cat([there, back])
    low, high = both.min().item() - 1, both.max().item() + 1
    for _ in range(80):
        c = (low + high) / 2
        excess = (there - c).sigmoid().sum() - (c - back).sigmoid().sum()
        low, high = (c, high) if excess > 0 else (low, c)
    shared = ((both - c).sigmoid() * (c - both).sigmoid()).sum().item()
    return c, math.sqrt(max(1 / max(shared, 1e-300) - 2 / len(there), 0.0))

"""Corruption of symbols: a Markov chain of each cell on its own finite set, one for all times.

    q(z_t = k | z_s = j) = Q(α)_{jk},   α = α_t/α_s,   Q(α) Q(β) = Q(αβ),   Q(1) = I,   Q(0) = 1 πᵀ

α_t is what survives of the data at time t, from 1 to 0, so that Q̄_t = ∏ Q_t = Q(α_t) needs no product of matrices.
By Bayes' rule, with a guess g of x that knows nothing of the cell's own z (`g` is one unit of mass for q, the network's for p),

    p(z_s = j | z_t) ∝ (g Q(α_s))_j · Q(α_t/α_s)_{j z_t}

Symbols are whole numbers (B, D), D cells; log g and all laws are (B, D, states).  The logarithm of 0 is `LOG_ZERO`, which is
finite, so that gradients are.

Source: Austin et al. (2021), arXiv:2107.03006; Campbell et al. (2022), arXiv:2205.14987, for the rates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.config import Configurable, parameters_of
from likeli.errors import require
from likeli.probability.draw import draw_symbols
from likeli.random import Noise

ANYWHERE = 1e-3  # share of a discretised Gaussian's jumps that goes to any symbol
LOG_ZERO = -1e4  # its exponential is 0 in every precision that we compute in


def log_of(p: Tensor) -> Tensor:
    """log p, `LOG_ZERO` for 0, where the gradient is 0."""
    return torch.where(p > 0, p.clamp(min=torch.finfo(p.dtype).tiny).log(), LOG_ZERO)


def log_one_hot(x: Tensor, states: int, dtype: torch.dtype) -> Tensor:
    """log of one unit of mass at each symbol: (B, D) → (B, D, states)."""
    return log_of(F.one_hot(x.long(), states).to(dtype))


class Corruption(Configurable, nn.Module, ABC):
    """How cells forget; made from its options alone, `on(sizes)` gives the one of some cells.

    Attributes:
        masks: whether a further state, [MASK], stands for what is forgotten; it is never a symbol of the data.
        sizes: (D,) symbols of each cell.
        states: columns of every law: the largest cell's symbols, and [MASK] where there is one.
    """

    masks: ClassVar[bool] = False
    sizes: Tensor
    log_pi: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.states = 0

    def on(self, sizes: Sequence[int]) -> Corruption:
        """A new corruption of the same options for cells of so many symbols."""
        other = type(self)(**{k: getattr(self, k) for k in parameters_of(type(self))})
        require(len(sizes) >= 1 and min(sizes) >= 1, "sizes", "one or more cells of at least one symbol", tuple(sizes))
        other.states = max(sizes) + self.masks
        other.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        other.register_buffer("log_pi", log_of(other.stationary()), persistent=False)
        return other

    @property
    def valid(self) -> Tensor:
        """Which states are symbols of a cell, (D, states)."""
        return torch.arange(self.states, device=self.sizes.device) < self.sizes[:, None]

    @abstractmethod
    def stationary(self) -> Tensor:
        """π, where every symbol ends, (D, states) float64."""

    def forward(self, log_w: Tensor, alpha: Tensor) -> Tensor:
        """log w Q(α): where symbols drawn from w are after a while, (B, D, states); here Q(α) = α I + (1 − α) 1 πᵀ.

        Arguments:
            log_w: (B, D, states), each cell's mass 1.
            alpha: what survives, (B,) or (B, D), float64.
        """
        kept, lost = survival_logs(alpha, log_w)
        return torch.logaddexp(log_w + kept, lost + self.log_pi.to(log_w))

    def evidence(self, z: Tensor, alpha: Tensor, dtype: torch.dtype) -> Tensor:
        """log Q(α)_{jz} for every j: what z says of where it came from, (B, D) → (B, D, states)."""
        here = log_one_hot(z, self.states, dtype)
        kept, lost = survival_logs(alpha, here)
        log_pi = self.log_pi.to(here).expand_as(here).gather(2, z.long()[..., None])
        return torch.logaddexp(here + kept, lost + log_pi)

    def rates(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """R_{jz}, the rate j → z per unit of −log α, 0 at j = z: (B, D) → (B, D, states); R = dQ/d(−log α) at α = 1."""
        here = F.one_hot(z.long(), self.states).to(dtype)
        pi = self.log_pi.to(here).exp().expand_as(here).gather(2, z.long()[..., None])
        return (1 - here) * pi * self.valid

    def draw(self, x: Tensor, alpha: Tensor, noise: Noise) -> Tensor:
        """z ~ q(z|x) after α, (B, D)."""
        return draw_symbols(self.forward(log_one_hot(x, self.states, torch.float64), alpha), noise)

    def moved(self, x: Tensor, alpha: Tensor, noise: Noise) -> Tensor:
        """z ~ q(z|x, z ≠ x), (B, D)."""
        here = F.one_hot(x.long(), self.states).bool()
        return draw_symbols(self(log_one_hot(x, self.states, torch.float64), alpha).masked_fill(here, -torch.inf), noise)

    def leaving(self, x: Tensor, alpha: Tensor) -> Tensor:
        """q(z ≠ x|x), (B, D) float64, to full relative accuracy."""
        here = F.one_hot(x.long(), self.states).bool()
        return self(log_one_hot(x, self.states, torch.float64), alpha).exp().masked_fill(here, 0).sum(-1)

    def bridge(self, log_g: Tensor, z: Tensor, alpha_s: Tensor, alpha_t: Tensor) -> Tensor:
        """log p(z_s|z_t = z) under a guess of x, normalised: q(z_s|z_t, x) for one unit of mass at x.

        Arguments:
            log_g: (B, D, states).
            z: (B, D) at t.
            alpha_s, alpha_t: what survives of the data at s and at t, s nearer to the data; each (B,) or (B, D).
        """
        ratio = torch.where(alpha_s > 0, alpha_t / alpha_s.clamp(min=1e-300), 1.0)
        return (self.forward(log_g, alpha_s) + self.evidence(z, ratio, log_g.dtype)).log_softmax(-1)

    def level_kl(self, x: Tensor, log_g: Tensor, z: Tensor, alpha_s: Tensor, alpha_t: Tensor) -> Tensor:
        """KL(q(z_s|z_t, x) ‖ p(z_s|z_t)) of every cell, (B, D); with α_s = 1 it is −log p(x|z_t)."""
        q = self.bridge(log_one_hot(x, self.states, log_g.dtype), z, alpha_s, alpha_t)
        return (q.exp() * (q - self.bridge(log_g, z, alpha_s, alpha_t))).sum(-1)

    def jump_cost(self, x: Tensor, log_g: Tensor, z: Tensor, alpha: Tensor) -> Tensor:
        """The KL of infinitely many levels per unit of −log α, of every cell, (B, D).

        With h_j = q(j|x)/q(z|x) and ĥ_j the same under g:  Σ_{j≠z} R_{jz} (ĥ_j − h_j + h_j log h_j/ĥ_j).
        """
        dtype, at = log_g.dtype, z.long()[..., None]
        q, p = self.forward(log_one_hot(x, self.states, dtype), alpha), self.forward(log_g, alpha)
        log_h = q - q.gather(2, at)
        r = log_h - (p - p.gather(2, at))
        return (self.rates(z, dtype) * log_h.exp() * (torch.expm1(-r) + r)).sum(-1)


def survival_logs(alpha: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """log α and log (1 − α) as (B, D or 1, 1) of the dtype of `like`."""
    alpha = alpha.double().reshape(len(alpha), -1, 1)
    return log_of(alpha).to(like), log_of(1 - alpha).to(like)


class Absorbing(Corruption):
    """A symbol is replaced by [MASK] with probability 1 − α, and stays so."""

    masks: ClassVar[bool] = True

    def stationary(self) -> Tensor:
        return F.one_hot(torch.full((len(self.sizes),), self.states - 1), self.states).double()

    def draw(self, x: Tensor, alpha: Tensor, noise: Noise) -> Tensor:
        u = noise.uniform(x.shape[1]).double()
        return torch.where(u < 1 - alpha.reshape(len(alpha), -1), self.states - 1, x)

    def moved(self, x: Tensor, alpha: Tensor, noise: Noise) -> Tensor:
        return torch.full_like(x, self.states - 1)

    def leaving(self, x: Tensor, alpha: Tensor) -> Tensor:
        return (1 - alpha.double()).reshape(len(x), -1).expand(x.shape)

    def level_kl(self, x: Tensor, log_g: Tensor, z: Tensor, alpha_s: Tensor, alpha_t: Tensor) -> Tensor:
        """(α_s − α_t)/(1 − α_t) · −log g(x) where z is [MASK], else 0."""
        unmasked = (alpha_s - alpha_t) / (1 - alpha_t).clamp(min=1e-300)
        return unmasked.reshape(len(z), -1).to(log_g) * self.surprise(x, log_g, z)

    def jump_cost(self, x: Tensor, log_g: Tensor, z: Tensor, alpha: Tensor) -> Tensor:
        """α/(1 − α) · −log g(x) where z is [MASK], else 0."""
        odds = alpha / (1 - alpha).clamp(min=1e-300)
        return odds.reshape(len(z), -1).to(log_g) * self.surprise(x, log_g, z)

    def surprise(self, x: Tensor, log_g: Tensor, z: Tensor) -> Tensor:
        """−log g(x) where z is [MASK], else 0: (B, D)."""
        return torch.where(z == self.states - 1, -log_g.gather(2, x.long()[..., None])[..., 0], 0)


class UniformCorruption(Corruption):
    """A symbol is replaced by any of its cell's symbols, all alike, with probability 1 − α."""

    def stationary(self) -> Tensor:
        return self.valid / self.sizes[:, None].double()


class DiscretisedGaussian(Corruption):
    """Ordered symbols wander to their neighbours first: rates R_{jk} ∝ exp(−½ (j − k)²/w²) for j ≠ k, w = `width` · (K − 1).

    A thousandth of all jumps goes anywhere, so that no ratio of probabilities is beyond what float64 resolves.  R is symmetric,
    so π is uniform and Q(α) = U diag(α^λ) Uᵀ with R = −U diag(λ) Uᵀ; R is scaled for the least λ > 0 to be 1, so that α is what
    survives of the slowest mode.

    Arguments:
        width: standard deviation of a jump, in shares of the range of symbols.

    Source: Austin et al. (2021), arXiv:2107.03006, appendix A.2.3, whose kernel at one step is this one's rate.
    """

    modes: Tensor
    falls: Tensor

    def __init__(self, width: float = 0.1) -> None:
        super().__init__()
        require(width > 0, "width", "a positive number", width)
        self.width = width

    def stationary(self) -> Tensor:
        """Uniform; the modes of R are found here as well, once where all cells are alike."""
        sizes = self.sizes.tolist()
        found = {k: self.spectrum(k) for k in set(sizes)}
        cells = sizes if len(found) > 1 else sizes[:1]
        self.register_buffer("falls", torch.stack([found[k][0] for k in cells]), persistent=False)
        self.register_buffer("modes", torch.stack([found[k][1] for k in cells]), persistent=False)
        return self.valid / self.sizes[:, None].double()

    def spectrum(self, k: int) -> tuple[Tensor, Tensor]:
        """λ (states,) and U (states, states) of a cell of K = k symbols; what is beyond them stands still."""
        falls, modes = torch.zeros(self.states, dtype=torch.float64), torch.eye(self.states, dtype=torch.float64)
        if k > 1:
            symbols = torch.arange(k, dtype=torch.float64)
            jumps = (-0.5 * ((symbols - symbols[:, None]) / (self.width * (k - 1))).square()).exp().fill_diagonal_(0)
            jumps = jumps / jumps.sum().clamp(min=1e-300) + ANYWHERE * (1 - torch.eye(k)) / (k * (k - 1))
            falls[:k], modes[:k, :k] = torch.linalg.eigh(jumps.sum(1).diag() - jumps)
            falls[0] = 0  # exactly: mass is kept
            falls /= falls[1].clone()
        return falls, modes

    def forward(self, log_w: Tensor, alpha: Tensor) -> Tensor:
        w, modes, falls = log_w.double().exp(), self.modes.double(), self.falls.double()
        decay = torch.expm1(falls * log_of(alpha.double().reshape(len(alpha), -1, 1)))
        moved = ((w[..., None, :] @ modes)[..., 0, :] * decay)[..., None, :] @ modes.mT  # w Q − w, right where small
        still = (alpha == 1).reshape(len(alpha), -1, 1)
        return torch.where(still, log_w, log_of((w + moved[..., 0, :]).clamp(min=0)).to(log_w))

    def evidence(self, z: Tensor, alpha: Tensor, dtype: torch.dtype) -> Tensor:
        return self(log_one_hot(z, self.states, dtype), alpha)  # Q is symmetric

    def rates(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        modes = self.modes.double()
        off = -(modes * self.falls.double()[:, None]) @ modes.mT
        off = off.masked_fill(torch.eye(self.states, dtype=torch.bool, device=off.device), 0).clamp(min=0)
        cell = torch.arange(len(off), device=z.device) if len(off) > 1 else torch.zeros(1, dtype=torch.long, device=z.device)
        return off.to(dtype)[cell, z.long()]


def matrices(corruption: Corruption, alphas: Sequence[float], cell: int = 0) -> Tensor:
    """Q(α) of one cell as matrices, (len(alphas), states, states): row j is where state j goes."""
    states, d = corruption.states, len(corruption.sizes)
    rows = log_of(torch.eye(states, dtype=torch.float64))[:, None].expand(states, d, states)
    found = [corruption(rows, torch.full((states,), a, dtype=torch.float64))[:, cell] for a in alphas]
    return torch.stack(found).exp()


def log_odds_lost(alpha: Tensor) -> Tensor:
    """log (1 − α)/α within ±20: how much is forgotten, as a network is told it."""
    limit = 1 / (1 + math.exp(20))
    return torch.logit((1 - alpha).clamp(limit, 1 - limit))

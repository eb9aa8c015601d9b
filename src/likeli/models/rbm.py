"""Restricted Boltzmann machines: bits or reals over binary hidden units, with every conditional in closed form."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.energy.unnormalised import Contrast, EnergyBased
from likeli.errors import require
from likeli.gaussian.missing import column_moments
from likeli.random import Ambient, Noise
from likeli.spaces import Space

MOST_COUNTED = 20  # units whose 2^n states are gone through
CHUNK = 2**12  # states at a time
NARROWEST = 1e-2  # standard deviation of a training column, in model units


class RBM(EnergyBased):
    """p(v) = Σ_h exp(−E(v, h))/Z with h ∈ {0, 1}^H.

        bits:    E = −aᵀv − cᵀh − (v − μ)ᵀ W (h − ½)
        reals:   E = Σ_i (v_i − a_i)²/2σ_i² − cᵀh − ((v − μ)/σ²)ᵀ W (h − ½)

    so that v|h has natural parameters (bits) or means a + W(h − ½), and h_j|v is 1 with probability σ(c_j + (v − μ)ᵀ W_j/σ²).
    a = a_0 + b, where a_0, μ and a scale are taken from the marginals of the training rows, which are also the base of the
    path: there W = c = b = 0.  Up to 20 hidden units, or 20 bits, log Z is counted.

    Arguments:
        space: bits; or reals, and pixels of many levels by their continuous form, for a Gaussian-Bernoulli machine.
        hidden: H, hidden units.
        contrast: where negative rows come from; if not given, 100 persistent chains with one sweep a step for bits, and five
            sweeps from the batch for reals, where chains hardly ever cross from one cluster to another.

    Raises:
        InputError: no hidden unit.
        Unsupported: cells that are neither.

    Source: Smolensky (1986); Hinton (2002), Neural Computation 14; Salakhutdinov & Murray (2008), ICML; Montavon & Müller
    (2012), for the centres μ and ½; Cho et al. (2011), ICANN, for the Gaussian form.
    """

    calls: ClassVar[str] = "steps"  # each a sweep
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "ema": 0.998, "weight_decay": 1e-3}
    mean: Tensor
    level: Tensor
    log_scale: Tensor

    def __init__(self, space: Space, hidden: int = 64, contrast: Contrast | None = None) -> None:
        few = Contrast(moves=1, buffer=100) if space.symbols == 2 else Contrast(moves=5)
        super().__init__(space, contrast or few)
        require(1 <= hidden <= 100_000, "hidden", "a whole number from 1 to 100,000", hidden)
        self.hidden, cells = hidden, space.dimensions
        self.W = nn.Parameter(torch.randn(cells, hidden) * 0.5 / max(cells, hidden) ** 0.5)  # 0 is a saddle, slow to leave
        self.b, self.c = nn.Parameter(torch.zeros(cells)), nn.Parameter(torch.zeros(hidden))
        # log σ − log of the base's; at half of it the hidden units have a spread to explain, at all of it 0 is a plateau
        self.s = None if self.bits else nn.Parameter(torch.full((cells,), -math.log(2)))
        self.register_buffer("mean", torch.full((cells,), 0.5 if self.bits else 0.0))  # μ
        self.register_buffer("level", torch.zeros(cells))  # a_0
        self.register_buffer("log_scale", torch.zeros(cells))

    def start(self, x: Tensor) -> None:
        """Smoothed frequencies and their logits, or means and standard deviations."""
        u = self.states(x, Ambient(x))[0].flatten(1).double()
        mean, variance = column_moments(u)
        if self.bits:
            p = (u.sum(0) + 0.5) / (len(u) + 1)
            self.mean.copy_(p)
            self.level.copy_(p.logit())
            return
        self.mean.copy_(mean)
        self.level.copy_(mean)
        self.log_scale.copy_(variance.sqrt().clamp(min=NARROWEST).log())

    def _at(self, beta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, W, c and 1/σ² (1 for bits) of the machine at β; at 0 the cells are independent."""
        precision = torch.ones_like(self.b) if self.s is None else (-2 * (self.log_scale + beta * self.s)).exp()
        return self.level + beta * self.b, beta * self.W, beta * self.c, precision

    def excitation(self, v: Tensor, beta: float = 1.0) -> Tensor:
        """c + Wᵀ(v − μ)/σ², the logits of h, (B, H)."""
        _, W, c, precision = self._at(beta)
        return torch.addmm(c, (v - self.mean) * precision, W)

    def log_f(self, u: Tensor, beta: float = 1.0) -> Tensor:
        """log Σ_h exp(−E_β(v, h)), (B, *shape) → (B,)."""
        a, _, c, precision = self._at(beta)
        v = u.flatten(1)
        e = self.excitation(v, beta)
        own = v @ a if self.s is None else -0.5 * ((v - a).square() * precision).sum(1)
        return own + F.softplus(e).sum(1) - 0.5 * (e - c).sum(1)

    @property
    def log_z0(self) -> Tensor:
        """H log 2 plus that of the base's cells."""
        a, scale = self.level.double(), self.log_scale.double()
        cells = F.softplus(a) if self.bits else scale + 0.5 * math.log(2 * math.pi)
        return cells.sum() + self.hidden * math.log(2)

    def base(self, noise: Noise) -> Tensor:
        """The rows' marginals."""
        return self._cells(self.level.expand(noise.rows, -1), 0.0, noise)

    def move(self, u: Tensor, beta: float, noise: Noise) -> Tensor:
        """One block Gibbs sweep: h ~ p(h|v), v ~ p(v|h)."""
        h = noise.uniform(self.hidden).to(u) < self.excitation(u.flatten(1), beta).sigmoid()
        return self._cells(self.location(h.to(u), beta), beta, noise)

    def location(self, h: Tensor, beta: float = 1.0) -> Tensor:
        """a + W(h − ½), the logits of bits given h, or their means, (B, H) → (B, D)."""
        a, W, _, _ = self._at(beta)
        return torch.addmm(a, h - 0.5, W.T)

    def _cells(self, location: Tensor, beta: float, noise: Noise) -> Tensor:
        """v|h from its natural parameters or means, (B, D) → (B, *shape)."""
        if self.bits:
            v = (noise.uniform(location.shape[1]).to(location) < location.sigmoid()).to(location)
        else:
            v = location + self._at(beta)[3].rsqrt() * noise.normal(location.shape[1]).to(location)
        return v.reshape(len(v), *self.space.shape)

    def count(self) -> Tensor | None:
        """log Z by going through the states of the hidden units, or of the bits if they are fewer."""
        cells = self.space.dimensions
        if self.bits and cells < self.hidden and cells <= MOST_COUNTED:
            terms = (self.double_log_f(v) for v in states_of(cells, self.W))
        elif self.hidden <= MOST_COUNTED:
            terms = (self.log_mass(h) for h in states_of(self.hidden, self.W))
        else:
            return None
        return torch.stack([t.logsumexp(0) for t in terms]).logsumexp(0)

    def double_log_f(self, v: Tensor) -> Tensor:
        """log f_1 of bits (B, D) in double precision."""
        a, W, c, _ = (t.double() for t in self._at(1.0))
        e = c + (v - self.mean.double()) @ W
        return v @ a + F.softplus(e).sum(1) - 0.5 * (e - c).sum(1)

    def log_mass(self, h: Tensor) -> Tensor:
        """log ∫ exp(−E(v, h)) dv of hidden states, (B, H) → (B,), in double precision."""
        a, W, c, precision = (t.double() for t in self._at(1.0))
        mean, k = self.mean.double(), (h - 0.5) @ W.T
        if self.bits:
            cells = F.softplus(a + k) - mean * k
        else:
            cells = 0.5 * (math.log(2 * math.pi) - precision.log()) + precision * (k * (a - mean) + k.square() / 2)
        return h @ c + cells.sum(1)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What tells how far training has come, and needs no Z; the gradients of contrastive divergence are not its own.

            bits:    −Σ_i log p(v_i | the other cells), the pseudo-likelihood
            reals:   Σ_i σ_0i² (½ ψ_i² + ∂ψ_i/∂v_i),  ψ = ∇ log f, score matching in units of the base's scale σ_0

        Source: Besag (1975), The Statistician 24; Hyvärinen (2005), JMLR 6.
        """
        u = self.states(x, Ambient(x))[0].flatten(1)
        a, W, _, precision = self._at(1.0)
        e = self.excitation(u)
        if self.bits:
            sign = 1 - 2 * u  # what a flip adds to v
            here, total = F.softplus(e).sum(1), torch.zeros_like(e[:, 0])
            for i in range(u.shape[1]):
                step = sign[:, i : i + 1] * W[i]
                gain = sign[:, i] * a[i] + F.softplus(e + step).sum(1) - here - 0.5 * step.sum(1)
                total = total + F.softplus(gain)
            return total
        on = e.sigmoid()
        psi = precision * (torch.addmm(a - u, on - 0.5, W.T))
        slope = precision.square() * ((on * (1 - on)) @ W.square().T) - precision
        return ((2 * self.log_scale).exp() * (0.5 * psi.square() + slope)).sum(1)


def states_of(units: int, like: Tensor) -> Any:
    """Every state of so many bits in double precision, (at most CHUNK, units) at a time."""
    for start in range(0, 2**units, CHUNK):
        index = torch.arange(start, min(start + CHUNK, 2**units), device=like.device)
        yield (index[:, None] >> torch.arange(units, device=like.device) & 1).double()

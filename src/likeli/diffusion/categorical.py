"""A denoiser that knows the data are discrete."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution

from likeli.diffusion.denoiser import Conditional, Prediction, level_of
from likeli.diffusion.schedule import Point, Schedule
from likeli.probability.draw import diagonal_gaussian
from likeli.spaces import Space, UnitVectors, symbol_cells


class CategoricalDenoiser(Conditional):
    """x̂ = Σ_k c_k P(k|z) with P(x_i = k|z) ∝ exp(4 net_ik(z)) · N(z_i; α c_k, σ²).

    What a cell's own noisy value says of it is exact; the network adds what the other cells say.  At small noise x̂ snaps to the
    right symbol with no network at all, and with an empty network the model is already that of independent uniform cells.

    Arguments:
        net: (z, γ, y) → logits/4: (B, K, *shape), or of the shape of z where a symbol is a unit vector.  Of a table it sees, in
            place of z, each symbol's probability given z_i alone and the log of that, side by side: sums of probabilities say
            what loosely tied columns have to say, sums of their logs what closely tied ones have.
        schedule: t → (α, σ).
        space: of cells of K symbols.
        takes_null: whether the network was trained without y at times.

    Source: the softmax over symbols is that of Dieleman et al. (2022), arXiv:2211.15089; the other factor is Bayes' rule.
    """

    snaps: ClassVar[bool] = True

    def __init__(self, net: nn.Module, schedule: Schedule, space: Space, takes_null: bool = False) -> None:
        super().__init__(schedule, takes_null)
        self.net, self.space = net, space

    def logits(self, z: Tensor, at: Point, y: Tensor | None = None) -> Tensor:
        """What the network adds to the cells' own evidence, over 4: (B, K, *shape), or (B, *model_shape) of unit vectors."""
        gamma, at = level_of(at, z), at.like(z)
        if isinstance(self.space, UnitVectors):
            p = self.space.by_cell(_evidence(self.space, z, at.alpha, at.sigma))
            return self.net(torch.cat([p, 1 + p.clamp(min=math.exp(-FAINT)).log() / FAINT], 1), gamma, y)
        return self.net(z / torch.hypot(at.alpha, at.sigma).to(z), gamma, y)

    def log_pmf(self, z: Tensor, at: Point, y: Tensor | None = None) -> Tensor:
        """log P(x_i = k|z), cell by cell: (B, K, *shape)."""
        place = at.like(z)
        log_p = GAIN * self.logits(z, at, y) + _evidence(self.space, z, place.alpha, place.sigma)
        return _by_symbol(self.space, log_p).log_softmax(1)

    def forward(self, z: Tensor, at: Point, y: Tensor | None = None) -> Prediction:
        logits, codes, place = self.logits(z, at, y), self.space.codebook(z), at.like(z)
        if codes is None:
            log_p = GAIN * logits + _evidence(self.space, z, place.alpha, place.sigma)
            x = self.space.by_cell(log_p) if isinstance(self.space, UnitVectors) else log_p.softmax(-1)
        else:
            x = expected_level(logits, z, place.alpha, place.sigma, codes)
        return Prediction.of_x(x, z, place.alpha, place.sigma)


GAIN = 4.0  # logits range over tens while an optimiser moves weights by its rate: a tenth of a bit a cell after a short run
FAINT = 8.0  # −log of the probability from which a network sees none
CACHED = 2**20  # numbers that are worked on at a time


def expected_level(logits: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, levels: Tensor) -> Tensor:
    """x̂ = Σ_k c_k P(k|z) with P(k|z) ∝ exp(4 l_k) · N(z; α c_k, σ²), cell by cell: (B, *shape).

    Arguments:
        logits: l, (B, K, *shape); may be of lower precision than z.
        z: (B, *shape).
        alpha, sigma: one number, or (B, 1, ...).
        levels: c, (K,).
    """
    snr = (alpha / sigma).expand(len(z), *[1] * (z.ndim - 1))
    given = logits.movedim(1, -1), z / sigma, snr, levels
    others = torch.is_grad_enabled() and any(t.requires_grad for t in given[1:])
    return expectation(*given) if others else _Expectation.apply(*given)


def expectation(logits: Tensor, scaled: Tensor, snr: Tensor, levels: Tensor) -> Tensor:
    """The same of logits (B, *shape, K), z/σ (B, *shape) and α/σ (B, 1, ...), all at once and with every derivative."""
    return (_pmf(logits, scaled, snr, levels) * levels).sum(-1)


def _pmf(logits: Tensor, scaled: Tensor, snr: Tensor, levels: Tensor) -> Tensor:
    distance = scaled[..., None] - snr[..., None] * levels
    return torch.addcmul(GAIN * logits.to(scaled.dtype), distance, distance, value=-0.5).softmax(-1)


class _Expectation(torch.autograd.Function):
    """`expectation` with a gradient for the logits alone: ∂x̂/∂l_k = 4 P(k|z) (c_k − x̂)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scaled: Tensor, snr: Tensor, levels: Tensor) -> Tensor:
        x, kept = torch.empty_like(scaled), torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        with torch.autocast(logits.device.type, enabled=False):  # it would round the sum over the levels
            for i in _chunks(logits):
                p = _pmf(logits[i], scaled[i], snr[i], levels)
                torch.matmul(p, levels, out=x[i])
                if kept is not None:
                    kept[i] = p
        ctx.save_for_backward(kept, x, levels)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, x, levels = ctx.saved_tensors
        out = torch.empty_like(p)
        for i in _chunks(p):
            slope = (levels - x[i][..., None]).mul_(GAIN * grad[i][..., None])
            torch.mul(p[i], slope, out=out[i])
        return out, None, None, None


def _chunks(logits: Tensor) -> list[slice]:
    """Rows of the batch that are worked on together."""
    size = max(1, CACHED // logits[0].numel()) if logits.device.type == "cpu" and len(logits) else max(1, len(logits))
    return [slice(i, i + size) for i in range(0, len(logits), size)]


def evidence(space: Space, z: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """log N(z_i; α c_k, σ²) up to a constant, for every symbol k of every cell i: (B, *model_shape) → (B, K, *shape).

    c_k is the symbol in model units: the centre of a grey level's bin, or the k-th unit vector.  Where the space knows the
    symbols' masses in each cell by itself, their log is added.
    """
    return _by_symbol(space, _evidence(space, z, alpha, sigma))


def _by_symbol(space: Space, log_p: Tensor) -> Tensor:
    """Logits of unit vectors (B, *model_shape) as (B, K, *shape); those of levels have that shape."""
    if isinstance(space, UnitVectors):
        return space.by_symbol(log_p)
    return log_p.movedim(-1, 1) if space.codebook(log_p) is None else log_p


def _evidence(space: Space, z: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """`evidence`, of unit vectors as their numbers (B, *model_shape)."""
    codes = space.codebook(z)
    if codes is None:
        log_p = z * (alpha / sigma**2)
        return log_p + space.log_prior.to(log_p) if isinstance(space, UnitVectors) else log_p
    alpha, sigma = (v[:, None] if isinstance(v, Tensor) and v.ndim else v for v in (alpha, sigma))
    return -0.5 * ((z[:, None] - alpha * codes.reshape(-1, *[1] * (z.ndim - 1))) / sigma).square()


def gaussian_cells(space: Space, mean: Tensor, std: Tensor) -> Distribution:
    """N(mean, std²) in model units as a distribution of x in the user's units, with the Jacobian in its log_prob.

    Arguments:
        space: reals give the Gaussian itself; cells of symbols give P(k) ∝ N(c_k; mean, std²), cell by cell.
        mean: (B, *model_shape).
        std: one number.
    """
    if not space.symbols:
        low, high = (space.from_model(mean.double() + shift) for shift in (0.0, std))  # float32 would lose a small std
        return diagonal_gaussian(low.to(mean), (high - low).abs().to(mean))
    return symbol_cells(space, evidence(space, mean, 1.0, std))


def clean_gamma(space: Space) -> float:
    """γ at which z still tells the cell's symbol: half the distance of two symbols is four σ/α; −10 for reals."""
    return 2 * math.log(space.spacing / 8) if space.spacing else -10.0

"""The expected grey level of every cell, a few images at a time so that all levels' numbers stay in the processor's cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GAIN = 4.0  # logits range over tens while an optimiser moves weights by its rate: a tenth of a bit a cell after a short run
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
    return plain(*given) if others else _Expectation.apply(*given)


def plain(logits: Tensor, scaled: Tensor, snr: Tensor, levels: Tensor) -> Tensor:
    """The same of logits (B, *shape, K), z/σ (B, *shape) and α/σ (B, 1, ...), all at once and with every derivative."""
    return (_pmf(logits, scaled, snr, levels) * levels).sum(-1)


def _pmf(logits: Tensor, scaled: Tensor, snr: Tensor, levels: Tensor) -> Tensor:
    distance = scaled[..., None] - snr[..., None] * levels
    return torch.addcmul(GAIN * logits.to(scaled.dtype), distance, distance, value=-0.5).softmax(-1)


class _Expectation(torch.autograd.Function):
    """`plain` with a gradient for the logits alone: ∂x̂/∂l_k = 4 P(k|z) (c_k − x̂)."""

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

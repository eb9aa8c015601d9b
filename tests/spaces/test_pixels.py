"""The summed Bernoulli against torch's and its derivatives of both orders and modes."""

import math

import pytest
import torch
from torch import distributions as D

from likeli.random import seeded
from likeli.spaces import Bernoulli, Binary


def logits_and_cells(scale, rows=50, cells=40, dtype=torch.double):
    with seeded(2, "cells"):
        return scale * torch.randn(rows, 1, cells, dtype=dtype), (torch.rand(rows, cells) < 0.3).to(torch.uint8)


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
def test_sum_agrees_with_torch_to_the_last_bits(scale):
    """Relative error of a sum of 40 terms of one sign: 40 roundings, each 1.1e-16 of the sum at most."""
    out, x = logits_and_cells(scale)
    p = Bernoulli().on(Binary((40,)))(out)
    truth = D.Bernoulli(logits=out[:, 0]).log_prob(x.double()).sum(1)
    assert torch.allclose(p.log_prob(x), truth, rtol=5e-15, atol=0)
    for dtype in (torch.int64, torch.bool, torch.float64):
        assert torch.equal(p.log_prob(x.to(dtype)), p.log_prob(x))
    assert torch.allclose(p.log_prob(x), p.cell_log_prob(x).sum(1), rtol=5e-15, atol=0)


def test_confident_cells_keep_their_digits_in_single_precision():
    """log σ(15) = −3.06e-7: as a difference of numbers near 15 it would have no digit left."""
    logits, head = torch.full((1, 1, 3), 15.0), Bernoulli().on(Binary((3,)))
    single, double = (head(out).log_prob(torch.ones(1, 3)).item() for out in (logits, logits.double()))
    assert single == pytest.approx(double, rel=1e-6)
    assert double == pytest.approx(-3 * math.log1p(math.exp(-15)), rel=1e-14)


def test_derivatives_of_both_orders_and_modes():
    head = Bernoulli().on(Binary((5,)))
    out, x = logits_and_cells(2.0, 4, 5)
    out.requires_grad_()
    assert torch.autograd.gradcheck(lambda o: head(o).log_prob(x), out, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda o: head(o).log_prob(x), out)
    per_row = torch.func.vmap(torch.func.grad(lambda o, x: head(o[None]).log_prob(x[None])[0]))(out, x)
    assert torch.allclose(per_row, torch.autograd.grad(head(out).log_prob(x).sum(), out)[0], rtol=1e-14)

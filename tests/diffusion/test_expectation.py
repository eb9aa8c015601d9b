"""The chunked expectation against the plain one, with its derivatives."""

import pytest
import torch

from likeli.diffusion import categorical
from likeli.diffusion.categorical import expected_level
from likeli.random import seeded


def case(dtype=torch.float64, batch=5):
    with seeded(0, "case"):
        logits = torch.randn(batch, 7, 3, 2, dtype=dtype, requires_grad=True)
        z = torch.randn(batch, 3, 2, dtype=dtype)
        sigma = torch.rand(batch, 1, 1, dtype=dtype) + 0.1
    return logits, z, (1 - sigma.square()).abs().sqrt(), sigma, torch.linspace(-1, 1, 7, dtype=dtype)


@pytest.mark.parametrize("cached", [1, 90, 2**20])
def test_value_and_gradient_do_not_depend_on_the_chunks(cached, monkeypatch):
    monkeypatch.setattr(categorical, "CACHED", cached)
    logits, z, alpha, sigma, levels = case()
    x = expected_level(logits, z, alpha, sigma, levels)
    p = (4 * logits - 0.5 * ((z[:, None] - alpha[:, None] * levels[:, None, None]) / sigma[:, None]).square()).softmax(1)
    torch.testing.assert_close(x, (p * levels[:, None, None]).sum(1), rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(x)
    plain = categorical.expectation(logits.movedim(1, -1), z / sigma, alpha / sigma, levels)
    expected = torch.autograd.grad(plain, logits, weight)[0]
    torch.testing.assert_close(torch.autograd.grad(x, logits, weight)[0], expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_all_inputs_by_differences():
    logits, *others = case(batch=2)
    others = [t.requires_grad_() for t in others]
    assert torch.autograd.gradcheck(expected_level, (logits, *others))
    for t in others:
        t.requires_grad_(False)
    assert torch.autograd.gradcheck(lambda v: expected_level(v, *others), (logits,))


def test_one_level_for_all_rows_and_no_rows_at_all():
    logits, z, _, _, levels = case()
    one = torch.tensor(0.6, dtype=z.dtype)
    each = one.expand(5, 1, 1)
    assert torch.equal(expected_level(logits, z, one, one, levels), expected_level(logits, z, each, each, levels))
    assert expected_level(logits[:0], z[:0], one, one, levels).shape == (0, 3, 2)


def test_low_precision_logits_leave_the_sum_over_levels_exact():
    """bfloat16 logits: x̂ is that of the rounded logits to float32 rounding, inside autocast too."""
    logits, z, alpha, sigma, levels = (t.detach() for t in case(torch.float32))
    rounded = logits.bfloat16()
    expected = expected_level(rounded.float(), z, alpha, sigma, levels)
    with torch.autocast("cpu", torch.bfloat16):
        x = expected_level(rounded, z, alpha, sigma, levels)
    assert x.dtype == torch.float32
    assert (x - expected).abs().max() < 1e-6

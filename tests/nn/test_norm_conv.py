"""The fused block and the attention against torch's own layers, their derivatives, and what they keep in memory."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from likeli.nn.conv import NormConv, modulated
from likeli.nn.mlp import ByteDropout
from likeli.nn.transformer import attend, heads_of
from likeli.random import seeded


def block(inputs=32, width=16, batch=3, dtype=torch.float64, steered=True):
    """A block off its starting point, and what it is called with."""
    with seeded(0, "block"):
        module = NormConv(inputs, width).to(dtype)
        for p in module.parameters():
            torch.nn.init.normal_(p, std=0.5)
        x = torch.randn(batch, inputs, 5, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
        steering = [0.3 * torch.randn(batch, inputs, 1, 1, dtype=dtype) for _ in range(2)] if steered else []
    return module, [t.requires_grad_() for t in (x, *steering)]


@pytest.mark.parametrize("steered", [False, True])
def test_values_and_both_derivatives_are_those_of_the_separate_layers(steered):
    """float64: gradients to 1e-12 of the composed layers, and gradcheck with its second derivatives."""
    module, given = block(steered=steered)
    n, c = module.norm, module.conv
    tensors = [given[0], n.weight, n.bias, c.weight, c.bias, *given[1:]]
    out, expected = module(*given), modulated(given[0], None, *tensors[1:])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, tensors, weight), torch.autograd.grad(expected, tensors, weight)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    module, given = block(inputs=4, width=2, batch=2, steered=steered)
    assert torch.autograd.gradcheck(module, given)
    assert torch.autograd.gradgradcheck(module, given)


def test_dropout_in_the_block_is_a_mask_of_the_activated_cells():
    """Values and gradients of the block in training are those of `modulated` with the mask that its seed draws."""
    module, given = block(batch=4)
    module.dropout.p = 0.25
    n, c = module.norm, module.conv
    tensors = [given[0], n.weight, n.bias, c.weight, c.bias, *given[1:]]
    with seeded(0, "mask"):
        mask = module.dropout.mask(given[0])
    with seeded(0, "mask"):
        out = module.train()(*given)
    expected = modulated(given[0], mask, *tensors[1:])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert mask.unique().tolist() == [0.0, 256 / 192] and mask.stride() == given[0].stride()
    weight = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, tensors, weight), torch.autograd.grad(expected, tensors, weight)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.001, 0.999])
def test_a_share_p_of_cells_is_zeroed_and_the_mean_is_kept(p):
    """400,000 cells, |z| < 5: every place of a byte alike, cells and neighbours independent; p within half of a 256th."""
    layer, n = ByteDropout(p).train(), 400_000
    with seeded(0, p):
        y = layer(torch.ones(400, 5, 200, dtype=torch.float64))
    rate = 1 - 1 / y.max().item()
    assert abs(rate - p) <= 0.5 / 256 or rate in (1 / 256, 255 / 256)
    gone = y.eq(0).double().reshape(-1, 8)
    sd = (rate * (1 - rate)) ** 0.5
    assert (gone.mean(0) - rate).abs().max() < 5 * sd / (n / 8) ** 0.5
    assert abs(y.mean().item() - 1) < 5 * sd / (1 - rate) / n**0.5
    flat = gone.flatten() - rate
    for lag in (1, 2, 7, 8, 200):
        assert abs((flat[lag:] * flat[:-lag]).mean().item()) < 5 * sd**2 / n**0.5
    assert torch.equal(layer.eval()(y), y)


def test_function_transforms_go_through():
    """Per-row gradients by vmap equal those of a loop."""
    module, (x, a, b) = block(inputs=16, width=2)

    def gradient(x, a, b):
        return torch.func.grad(lambda v: module(v[None], a[None], b[None]).square().sum())(x)

    together = torch.func.vmap(gradient)(x, a, b)
    for i, row in enumerate(together):
        torch.testing.assert_close(row, gradient(x[i], a[i], b[i]), rtol=1e-10, atol=1e-10)


def test_only_the_input_is_kept_for_the_backward_pass():
    """What autograd saves of image size is x itself, where separate layers save four images."""
    module, given = block(inputs=32, width=32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        module(*given)
    assert sum(t.numel() == given[0].numel() for t in kept) == 1


def test_bfloat16_is_within_its_rounding_and_gradients_keep_the_weights_type():
    """Three roundings of 2⁻⁸ before a sum of 288 products of about unit size: a few per cent of the output's spread."""
    module, given = block(dtype=torch.float32)
    expected = module(*given)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(*given)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).std() < 0.02 * expected.std()
    out.float().square().mean().backward()
    assert module.conv.weight.grad.dtype == module.norm.weight.grad.dtype == torch.float32
    assert all(torch.isfinite(t.grad).all() for t in given)


def test_dropout_zeroes_and_rescales_in_training_alone():
    """With a 1×1 identity for the convolution a value is 0 or twice what it is without dropout."""
    module = NormConv(16, 16, dropout=0.5, reach=1)
    with torch.no_grad():
        module.conv.weight.copy_(torch.eye(16)[:, :, None, None])
        module.conv.bias.zero_()
    x = torch.randn(8, 16, 6, 6)
    sure = module.eval()(x)
    ratio = (module.train()(x) / sure).flatten()
    assert torch.isclose(ratio, torch.tensor(2.0)).logical_or(ratio == 0).all()
    share = (ratio == 0).double().mean().item()
    assert abs(share - 0.5) < 5 * 0.5 / len(ratio) ** 0.5  # false alarm below 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tokens", [9, 80])
def test_attention_in_either_form_is_the_same(tokens, dtype):
    qkv = torch.randn(2, tokens, 3 * 64, dtype=dtype, generator=torch.Generator().manual_seed(0))
    q, k, v = qkv.double().reshape(2, tokens, 3, 2, 32).permute(2, 0, 3, 1, 4)
    expected = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, tokens, 64)
    eps = torch.finfo(dtype).eps
    # outputs below 2; logits up to about 5 carry a rounding of 32 products each into the exponent
    assert (attend(qkv, 2).double() - expected).abs().max() < 32 * eps


def test_heads_divide_the_width():
    for width in range(1, 400):
        heads = heads_of(width)
        assert width % heads == 0
        assert heads == 1 or width // heads >= 64

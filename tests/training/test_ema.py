import math

import pytest
import torch
from torch import nn

from likeli.diffusion.networks import DenoiserBackbone
from likeli.models.vdm import VDM
from likeli.random import seeded
from likeli.spaces import Real
from likeli.training import fit
from likeli.training.run import EMA, holding


def test_average_equals_its_closed_form():
    """ā_N = Π d_n a_0 + Σ_n (1 − d_n) Π_{m>n} d_m a_{n+1}: float64 keeps 1e-13 over 60 updates."""
    generator, d = torch.Generator().manual_seed(0), 0.8
    path = torch.randn(61, 7, generator=generator, dtype=torch.float64)
    p = nn.Parameter(path[0].clone())
    ema = EMA({"p": p}, d)
    for value in path[1:]:
        p.data.copy_(value)
        ema.update()
    decay = torch.tensor([min(d, (1 + n) / (10 + n)) for n in range(60)], dtype=torch.float64)
    later = torch.cat([decay.flip(0).cumprod(0).flip(0), torch.ones(1, dtype=torch.float64)])  # Π_{m≥n} d_m
    expected = later[0] * path[0] + ((1 - decay) * later[1:]) @ path[1:]
    torch.testing.assert_close(ema.average["p"], expected, rtol=1e-13, atol=1e-13)
    assert decay[0] == 0.1
    assert (decay[35:] == d).all()  # (1 + n)/(10 + n) = 0.8 at n = 35


def test_a_restored_average_goes_on_as_if_it_had_not_stopped():
    p = nn.Parameter(torch.ones(3))
    a = EMA({"p": p}, 0.99)
    for _ in range(5):
        p.data.add_(1)
        a.update()
    saved = {k: v.clone() for k, v in a.tensors().items()}
    b = EMA({"p": p}, 0.99)
    b.restore(saved)
    p.data.add_(1)
    a.update()
    b.update()
    assert torch.equal(a.average["p"], b.average["p"])


def test_zero_decay_keeps_no_copy():
    p = nn.Parameter(torch.ones(3))
    ema = EMA({"p": p}, 0.0)
    ema.update()
    assert ema.average == {}


def test_holding_swaps_and_gives_back_tied_tensors_too():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    before = model[0].weight.data.clone()
    place = model[0].weight.data_ptr()
    values = {"0.weight": torch.full((2, 2), 5.0), "1.weight": torch.full((2, 2), 6.0)}
    with holding(model.state_dict(keep_vars=True), values):
        assert (model[1].weight == 6).all()
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.data_ptr() == place
    assert (values["0.weight"] == 5).all()
    assert (values["1.weight"] == 6).all()


def test_the_start_is_forgotten_within_twenty_steps_whatever_the_decay():
    """Its share after n updates is Π (1 + m)/(10 + m) = 1/C(n + 9, 9): 1e-7 after 20, where d alone would leave 0.998."""
    p = nn.Parameter(torch.ones(1, dtype=torch.float64))  # the start counts as 1 and everything later as 0
    ema = EMA({"p": p}, 0.9999)
    p.data.zero_()
    for n in range(1, 21):
        ema.update()
        assert ema.average["p"].item() == pytest.approx(1 / math.comb(n + 9, 9), rel=1e-12)


def off_the_ring(model):
    """Mean distance of 500 samples from the unit circle."""
    return (model.sample(500, steps=20, sampler="multistep", seed=0).norm(dim=1) - 1).abs().mean().item()


def test_early_samples_are_not_those_of_the_untrained_model():
    """100 steps at d = 0.9999: samples come from the data's narrow ring, where the untrained model draws broad noise."""
    with seeded(0, "ring"):
        angle = 2 * math.pi * torch.rand(2000)
        x = torch.stack([angle.cos(), angle.sin()], 1)
        model = VDM(Real((2,), (0.0, 0.0), (0.7, 0.7)), backbone=DenoiserBackbone(hidden=(64, 64)))
        before = off_the_ring(model)
        fit(model, x, steps=100, ema=0.9999, lr=5e-3, progress=False)
    assert off_the_ring(model) < 0.5 * before

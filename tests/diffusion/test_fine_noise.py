"""The clean end of a diffusion holds noise so fine that float32 differences of data would lose it."""

import pytest
import torch

import likeli
from likeli.diffusion.categorical import gaussian_cells
from likeli.errors import InputError
from likeli.spaces import Real


@pytest.mark.parametrize("gamma", [-10.0, -20.0, -30.0])
@pytest.mark.parametrize("place", [0.0, 1.0, -2.3, 30.0])
def test_the_spread_of_clean_cells_keeps_its_digits(gamma, place):
    """N(m, σ²) in model units is N(mean + scale m, (scale σ)²) in the user's; float32's σ has seven digits, and so has this."""
    space, std = Real((1,), mean=5.0, scale=1.7), torch.tensor(gamma / 2).exp()
    law = gaussian_cells(space, torch.full((3, 1), place), std)
    assert torch.allclose(law.base_dist.scale, 1.7 * std.expand(3, 1), rtol=1e-6, atol=0)


def test_a_bound_at_the_finest_noise_is_a_number():
    torch.manual_seed(0)
    model = likeli.VDM(Real((2,)), gamma=(-32.0, 32.0), backbone=likeli.DenoiserBackbone(hidden=(8,)))
    assert model.loss(torch.randn(4000, 2)).isfinite().all()
    with pytest.raises(InputError, match="gamma: expected ends of at most 32"):
        likeli.VDM(Real((2,)), gamma=(-40.0, 40.0))

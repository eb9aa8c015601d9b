"""denoising-diffusion-pytorch's network read as one of our diffusions, on its own schedule."""

import math

import torch
from torch import nn

from benchmarks._mnist import LEVELS, space
from likeli.diffusion.denoiser import Conditional, Prediction
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.schedule import VariancePreserving
from likeli.spaces import CategoricalCells


class LucidSchedule(VariancePreserving):
    """γ at T levels from the peer's betas, linear between."""

    def __init__(self, betas):
        super().__init__()
        self.register_buffer("gammas", (-torch.log1p(-betas.double()).cumsum(0)).expm1().log(), persistent=False)

    def gamma(self, t):
        place = t * (len(self.gammas) - 1)
        left = place.detach().floor().clamp(0, len(self.gammas) - 2).long()
        return torch.lerp(self.gammas[left], self.gammas[left + 1], place - left)


class Read(Conditional):
    """The peer's v as a prediction, x̂ clipped as its own samplers clip it."""

    def __init__(self, net, schedule):
        super().__init__(schedule)
        self.net = net

    def forward(self, z, at, y=None):
        level = (at.t * (len(self.schedule.gammas) - 1)).round().long().expand(len(z))
        at = at.like(z)
        x = Prediction.of_v(self.net(z[:, None], level)[:, 0], z, at.alpha, at.sigma).x
        return Prediction.of_x(x.clamp(-1, 1), z, at.alpha, at.sigma)


class Lucid(GaussianDiffusion):
    """The peer's chain, with its grey levels at 2k/255 − 1 and p(x|z_1) a mixture around x̂(z_1)."""

    def __init__(self, net, betas):
        super().__init__(space(), levels=len(betas), continuous=False)
        self.denoiser = Read(net, LucidSchedule(betas))
        self.log_std = nn.Parameter(torch.tensor([-7.0, -4.5, -2.0]))
        self.weight = nn.Parameter(torch.tensor([0.0, 0.0, -2.0, -4.0]))

    def loss(self, x, y=None):
        return -self.bound(x, torch.rand(len(x), dtype=torch.float64), y).value

    def infer(self, x, y=None):
        return 2 * x.float() / (LEVELS - 1) - 1

    def observation(self, state, y=None):
        return CategoricalCells(self.decoder(self.denoiser(state.z, state.at, y).x))

    def decoder(self, x):
        """log P(k|x̂), (B, *shape) → (B, K, *shape)."""
        levels = torch.linspace(-1, 1, LEVELS).reshape(-1, *[1] * (x.ndim - 1))
        squares = (x[:, None] - levels).square()
        parts = [(-0.5 * (-2 * s).exp() * squares).log_softmax(1) for s in self.log_std]
        parts.append(torch.full_like(parts[0], -math.log(LEVELS)))  # or one cell far off would cost thousands of nats
        return torch.stack([w + part for w, part in zip(self.weight.log_softmax(0), parts)]).logsumexp(0)


def as_likeli(diffusion, valid):
    """The peer's averaged network, its decoder fitted to 20,000 cells of validation digits."""
    assert diffusion.objective == "pred_v"
    model = Lucid(diffusion.model, diffusion.betas).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        u, first = model.infer(valid), model.schedule.at(0.0)
        x = model.denoiser(first.alpha.float() * u + first.sigma.float() * torch.randn_like(u), first).x
    cells = torch.randperm(valid.numel())[:20_000]
    guess, truth = x.flatten()[cells], valid.flatten()[cells].long()
    adam = torch.optim.Adam([model.log_std, model.weight], 0.1)
    for _ in range(60):
        adam.zero_grad()
        nn.functional.nll_loss(model.decoder(guess), truth).backward()
        adam.step()
    return model

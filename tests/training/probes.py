"""Small models with every state that a resume could lose: dropout, noise, a buffer that training moves, EM's parameters."""

import math

import torch
from torch import nn

from likeli.contract import GenerativeModel, Knows
from likeli.spaces import Labels, Real, Space


class NoisyProbe(GenerativeModel):
    """A denoiser with dropout, a running mean and a learned scale; `hook(model, x) -> x` sees every batch."""

    knows = Knows.LOWER_BOUND
    strategy = "sgd"
    hook = staticmethod(lambda model, x: x)

    def __init__(self, space: Space, hidden: int = 16, condition: Labels | None = None):
        super().__init__(space)
        self.hidden, self.condition = hidden, condition
        width = space.dimensions
        extra = condition.classes if condition is not None else 0
        self.net = nn.Sequential(nn.Linear(width + extra, hidden), nn.Dropout(0.1), nn.Tanh(), nn.Linear(hidden, width))
        self.log_scale = nn.Parameter(torch.zeros(width))
        self.register_buffer("seen", torch.zeros(width))

    def loss(self, x, y=None):
        u = self.hook(self, self.space.to_model(x, self.dtype))
        if self.training:
            self.seen.lerp_(u.mean(0), 0.1)
        v = u + 0.3 * torch.randn_like(u)
        if y is not None:
            v = torch.cat([v, self.condition.to_model(y, self.dtype)], 1)
        error = (self.net(v) + self.seen - u) * (-self.log_scale).exp()
        return (0.5 * error**2 + self.log_scale).sum(1) + 0.5 * self.space.dimensions * math.log(2 * math.pi)

    def draw(self, noise, y=None):
        return self.space.from_model(noise.normal(*self.space.shape))


class MixtureProbe(GenerativeModel):
    """Equal mixture of two unit normals at ±m cells apart, m by EM: E[tanh(m·x) x] is its exact M-step."""

    knows = Knows.EXACT
    strategy = "em"

    def __init__(self, space: Space):
        super().__init__(space)
        self.register_buffer("m", torch.zeros(space.dimensions, dtype=torch.float64))

    def em(self, x, *, seed=0, start=True):
        if start:
            self.m.copy_(torch.randn(self.m.shape, dtype=torch.float64))
        while True:
            value = -self.loss(x).mean().item()
            self.m.copy_((torch.tanh(x.double() @ self.m)[:, None] * x.double()).mean(0))
            yield value

    def loss(self, x, y=None):
        both = torch.stack([((x.double() - s * self.m) ** 2).sum(1) / 2 for s in (1, -1)])
        return -(-both).logsumexp(0) + math.log(2) + 0.5 * self.space.dimensions * math.log(2 * math.pi)

    def draw(self, noise, y=None):
        return noise.normal(*self.space.shape)


class MeanProbe(GenerativeModel):
    """A unit normal about the mean of the rows."""

    knows = Knows.EXACT
    strategy = "closed_form"

    def __init__(self, space: Space):
        super().__init__(space)
        self.register_buffer("mean", torch.zeros(space.dimensions, dtype=torch.float64))

    def fit_closed_form(self, x, y=None, *, seed=0):
        self.mean.copy_(x.double().mean(0))

    def loss(self, x, y=None):
        return ((x.double() - self.mean) ** 2).sum(1) / 2 + 0.5 * self.space.dimensions * math.log(2 * math.pi)

    def draw(self, noise, y=None):
        return noise.normal(*self.space.shape)


class Rows:
    """The part of `Data` that `fit` looks at."""

    def __init__(self, x, y=None, valid=60):
        order = torch.arange(len(x))
        self.x, self.y, self.train, self.valid = x, y, order[valid:], order[:valid]

    def split(self, name):
        index = getattr(self, name)
        return self.x[index], None if self.y is None else self.y[index]

    def describe(self):
        return {"name": "rows", "rows": len(self.x)}


def rows(n=300, width=5):
    """A mixture of two clouds, one row in four of the second."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, width, generator=generator) + 1.5 * (torch.arange(n) % 4 > 0)[:, None]


def noisy(width=5, **arguments):
    """The same untrained probe every time, whatever the caller's random state."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return NoisyProbe(Real((width,)), **arguments)

"""A kind of data of one's own is one class with its head: families, training and checkpoints take it as they take ours."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

import likeli
from likeli.config import build, describe
from likeli.diffusion.categorical import gaussian_cells
from likeli.random import Noise, Streams, seeded
from likeli.spaces import Cells, Observation, Space


class Angles(Space):
    """Angles in degrees, (−180, 180]; a network sees them as points on a circle, so that −180 and 180 are one.

    Arguments:
        count: angles of one example.
    """

    measure = "density"
    unit = torch.tensor(180 / math.pi, dtype=torch.float64)

    def __init__(self, count: int) -> None:
        super().__init__((count,))
        self.count = count

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (self.count, 2)

    def head(self) -> Observation:
        return WrappedCauchy().on(self)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        self._refuse(x, ~((x > -180) & (x <= 180)), what, "degrees above -180 and up to 180")
        return x

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        radians = x.double() / self.unit
        return torch.stack([radians.cos(), radians.sin()], -1).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        return torch.atan2(u[..., 1], u[..., 0]) * self.unit.to(u.dtype)


class WrappedCauchy(Observation):
    """p(x) = (1 − ρ²) / 2π (1 + ρ² − 2ρ cos(x − μ)) per radian; the decoder gives a point whose angle is μ, and logit ρ."""

    spaces: ClassVar = (Angles,)

    @property
    def channels(self) -> int:
        return 3

    def read(self, out: Tensor) -> Cells:
        return CauchyCells(out, self.space)


class CauchyCells(Cells):
    """Independent angles."""

    def __init__(self, out: Tensor, space: Angles) -> None:
        super().__init__(out)
        self.space, self.rho = space, out[:, 2].sigmoid()

    @property
    def mean(self) -> Tensor:
        return self.space.from_model(self.out[:, :2].movedim(1, -1))

    def cell_log_prob(self, x: Tensor) -> Tensor:
        away = 1 + self.rho**2 - 2 * self.rho * ((x - self.mean) / self.space.unit).cos()
        return (1 - self.rho**2).log() - away.log() - math.log(360)

    def draw(self, noise: Noise) -> Tensor:
        half = math.pi * (noise.uniform(*self.event_shape).to(self.out) - 0.5)
        away = 2 * torch.atan((1 - self.rho) / (1 + self.rho) * half.tan()) * self.space.unit
        return 180 - (180 - self.mean - away) % 360


def headings(n, seed=0):
    """Pairs of angles around 170°, across the cut, the second a noisy copy of the first."""
    with seeded(seed, "angles"):
        first = 170 + 20 * torch.randn(n)
        return 180 - (180 - torch.stack([first, first + 5 * torch.randn(n)], 1)) % 360


def test_the_head_has_mass_one_per_degree_and_draws_what_it_scores():
    """scipy's wrapped Cauchy; the quadrature's own error is below 1e-10, and KS at 1e-4 of false alarm."""
    space = Angles(1)
    p = space.head()(torch.tensor([[[-0.8], [0.3], [0.7]]], dtype=torch.double))
    total, _ = integrate.quad(lambda a: p.log_prob(torch.tensor([[a]], dtype=torch.double)).exp().item(), -180, 180)
    assert total == pytest.approx(1, abs=1e-8)
    rho, mean = p.rho.item(), p.mean.item()
    x = torch.tensor([[-179.0], [3.0], [175.0]])
    truth = stats.wrapcauchy.logpdf(((x - mean) % 360 / 180 * math.pi).numpy(), rho) - math.log(180 / math.pi)
    assert torch.allclose(p.log_prob(x), torch.from_numpy(truth)[:, 0], atol=1e-6)
    many = space.head()(p.out.expand(4000, -1, -1)).draw(Streams(0, range(4000)))
    turned = ((many - mean) % 360 / 180 * math.pi).flatten().numpy()
    assert stats.kstest(turned, stats.wrapcauchy(rho).cdf).pvalue > 1e-4
    space.check(many)


def test_a_vae_is_built_fitted_saved_and_loaded_on_it(tmp_path):
    space, x = Angles(2), headings(300)
    assert describe(build(describe(space), Space)) == describe(space)
    model = likeli.VAE(space, 2, likeli.CoderBackbone((16,)))
    assert model.head.kind() == "wrapped_cauchy"
    likeli.fit(model, x, steps=2)
    likeli.save(model, tmp_path / "run")
    again = likeli.load(tmp_path / "run")
    assert again.space.count == 2
    with seeded(0):
        before = model.log_likelihood(x[:8])
    with seeded(0):
        after = again.log_likelihood(x[:8])
    assert before.measure == "density"
    assert torch.equal(before.value, after.value)
    assert torch.equal(model.sample(5, seed=1), again.sample(5, seed=1))
    space.check(again.sample(50))


def test_training_on_it_finds_the_cut_circle():
    """Two angles of a spread of 20° and 5° cost less than two even ones by more than a nat after 100 steps."""
    x, model = headings(600), likeli.VAE(Angles(2), 2, likeli.CoderBackbone((32,)))
    likeli.fit(model, x, steps=100)
    assert model.log_likelihood(headings(100, seed=1)).value.mean() > -2 * math.log(360) + 1


class Grades(Space):
    """Ordered grades A (best) to E as the whole numbers 0 … 4; neighbours are as far apart as any other two neighbours."""

    measure = "mass"
    symbols = 5
    spacing = 0.5

    def __init__(self, subjects: int) -> None:
        super().__init__((subjects,))
        self.subjects = subjects

    def codebook(self, like: Tensor) -> Tensor:
        return self.to_model(torch.arange(5, device=like.device), like.dtype)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        return self._whole(x, 4, what, "grades from 0 to 4").long()

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return x.to(dtype) / 2 - 1

    def from_model(self, u: Tensor) -> Tensor:
        return (2 * u + 2).round().clamp(0, 4).long()

    def head(self) -> Observation:
        return likeli.spaces.Categorical().on(self)


@pytest.mark.parametrize("family", ["vae", "vdm", "independent", "categorical_mixture"])
def test_families_of_symbols_ask_what_a_cell_can_be_and_not_of_which_kind_it_is(family):
    model = likeli.build({"class": family, "space": describe(Grades(2))}, likeli.GenerativeModel).eval()
    every = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    result = model.log_likelihood(every)
    assert result.measure == "mass"
    if result.knows is likeli.Knows.EXACT:
        assert result.value.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert model.loss(every).isfinite().all()
    assert model.space.check(model.sample(20)).shape == (20, 2)


def test_a_noisy_grade_is_read_by_bayes_rule():
    z, levels = torch.tensor([[0.1, -0.9]], dtype=torch.double), torch.tensor([-1, -0.5, 0, 0.5, 1]).double()
    density = stats.norm.pdf(z[0, :, None], levels, 0.3)
    pmf = gaussian_cells(Grades(2), z, torch.tensor(0.3, dtype=torch.double)).log_pmf().exp()
    assert np.allclose(pmf[0], density / density.sum(1, keepdims=True), atol=1e-12)


class Dice(Space):
    """Eyes of dice, 1 to 6.

    Arguments:
        shape: dice of one example.
    """

    measure = "mass"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)

    @classmethod
    def recognise(cls, x):
        return "taken as dice" if not x.is_floating_point() and bool(((x >= 1) & (x <= 6)).all()) else None

    def _check_values(self, x, what, missing):
        return self._whole(x, 6, what, "eyes from 1 to 6")

    def to_model(self, x, dtype=torch.float32):
        return (x.to(dtype) - 3.5) / 2

    def from_model(self, u):
        return (2 * u + 3.5).round().clamp(1, 6).long()


def test_it_is_recognised_in_an_array_when_it_asks_to_be(monkeypatch):
    rolls = np.random.default_rng(0).integers(1, 7, (40, 3))
    assert likeli.load_data(rolls).kind == "table"
    monkeypatch.setattr(Dice, "rank", 1)
    data = likeli.load_data(rolls)
    assert isinstance(data.space, Dice) and data.space.shape == (3,)
    assert any("taken as dice" in warning for warning in data.warnings)
    assert likeli.load_data(rolls, kind="counts").kind == "counts"
    assert likeli.load_data(rolls - 7).kind == "table"

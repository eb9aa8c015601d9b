"""A classifier of noised rows, whose gradient tells a sampler where its class is."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from likeli.checkpoint import load_part, save_part
from likeli.config import Configurable, describe
from likeli.diffusion.bound import low_discrepancy
from likeli.diffusion.denoiser import level_of
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.schedule import Point, Schedule
from likeli.errors import require
from likeli.nn.embedding import NoiseLevel
from likeli.nn.mlp import MLP
from likeli.random import seeded
from likeli.spaces import Space
from likeli.spaces.labels import unlabelled

FEATURES = 64  # of the noise level
BATCH = 256


class NoisyClassifier(Configurable, nn.Module):
    """log p(y|z_t) at every noise level, for `Guidance(classifier=…)`.

    At t = 0 it is an ordinary classifier of rows.

    Arguments:
        space: of x.
        condition: of y, one of K classes.
        schedule: by which rows are noised.
        hidden: widths of its layers.

    Raises:
        InputError: y is not one of finitely many classes.

    Source: Dhariwal & Nichol (2021), arXiv:2105.05233, section 4.1.
    """

    def __init__(self, space: Space, condition: Space, schedule: Schedule, hidden: tuple[int, ...] = (256, 256)) -> None:
        super().__init__()
        require(condition.symbols > 0 and not condition.shape, "condition", "classes, one a row", condition.describe_shape())
        self.space, self.condition, self.schedule, self.hidden = space, condition, schedule, hidden
        self.level = NoiseLevel(FEATURES)
        self.net = MLP(math.prod((space.vectors or space).model_shape) + FEATURES, condition.symbols, hidden)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that it computes in."""
        return self.net[0].weight.dtype  # type: ignore[return-value]

    def log_pmf(self, z: Tensor, at: Point) -> Tensor:
        """log p(·|z_t), (B, *model_shape) → (B, K)."""
        place, e = at.like(z), self.level(level_of(at, z))
        seen = (z / torch.hypot(place.alpha, place.sigma)).flatten(1)
        return self.net(torch.cat([seen, e], 1)).log_softmax(1)

    def forward(self, z: Tensor, at: Point, y: Tensor | None) -> Tensor:
        """log p(y|z_t), (B,); y is labels (B,), one for all, or rows of weights, of which it is the mean."""
        require(y is not None, "y", "a label", "nothing")
        assert y is not None
        weights = self.condition.to_model(y, z.dtype).to(z.device)
        return (self.log_pmf(z, at) * weights).sum(1)

    def of(self, x: Tensor) -> Tensor:
        """log p(·|x) of rows in the user's units, (B, *shape) → (B, K): the classifier at the clean end."""
        first = self.schedule.at(0.0)
        with torch.no_grad():
            u = (self.space.vectors or self.space).to_model(self.space.check(x), next(self.parameters()).dtype)
            return self.log_pmf(first.like(u).alpha * u, first)

    def loss(self, u: Tensor, y: Tensor) -> Tensor:
        """−log p(y|z_t) of rows in model units at one time a row, evenly spread: (B,) nats."""
        at = self.schedule.at(low_discrepancy(len(u), u.device))
        place = at.like(u)
        return -self(place.alpha * u + place.sigma * torch.randn_like(u), at, y)


def fit_noisy_classifier(
    model: GaussianDiffusion, x: Tensor, y: Tensor, condition: Space | None = None, *, steps: int = 1000, seed: int = 0
) -> NoisyClassifier:
    """A classifier of a diffusion model's own noised rows, by Adam on the cross-entropy; torch's global state is kept.

    Arguments:
        model: whose space and schedule it shares.
        x, y: rows and their labels, in the user's units; rows without one are left out.
        condition: what y is; the model's own if not given.
        steps: of 256 rows.
        seed: of weights, batches and noise.

    Raises:
        InputError: no rows, labels that do not fit, or no classes.
    """
    known = condition or model.condition
    require(known is not None, "condition", "what y is, as the model takes none", "nothing")
    require(steps >= 1, "steps", "at least 1", steps)
    assert known is not None
    x, y = model.space.check(x).to(model.device), known.check(y, what="y", missing=True).to(model.device)
    require(len(x) == len(y), "y", f"{len(x)} labels", len(y))
    seen = ~unlabelled(known, y)
    require(bool(seen.any()), "y", "at least one label", "none")
    x, y = x[seen], y[seen]
    with seeded(seed, "noisy classifier"), torch.enable_grad():
        found = NoisyClassifier(model.space, known, model.schedule).to(model.device, model.dtype)
        own = [*found.net.parameters(), *found.level.parameters()]  # the schedule stays the model's
        optimiser = torch.optim.AdamW(own, lr=2e-3, weight_decay=0.01)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(x), (min(BATCH, len(x)),), device=x.device)
            optimiser.zero_grad()
            grads = torch.autograd.grad(found.loss(model.infer(x[rows]), y[rows]).mean(), own)
            for parameter, grad in zip(own, grads):
                parameter.grad = grad
            optimiser.step()
            plan.step()
    return found.eval()


def save_classifier(found: NoisyClassifier, folder: str | Path) -> None:
    """Write a classifier as a folder of its own: config.json, model.safetensors, README.md, manifest.json.

    Raises:
        InputError: the folder is not new or empty.
    """
    of = f"# noisy_classifier\n\nlog p(y|z_t) of {found.condition.symbols} classes, for `Guidance(classifier=...)`.\n\n"
    use = "`likeli.diffusion.noisy_classifier.load_classifier(folder)`, or `likeli sample --classifier FOLDER`.\n"
    save_part(found, folder, of + use, {})


def load_classifier(folder: str | Path, model: GaussianDiffusion | None = None) -> NoisyClassifier:
    """The classifier of a folder, every byte verified.

    Arguments:
        model: that it is to guide.

    Raises:
        CheckpointError: missing, damaged, or another kind.
        InputError: it is of rows, or of classes, that are not the model's.
    """
    found = load_part(folder, NoisyClassifier)
    if model is None:
        return found
    same = describe(found.space) == describe(model.space)
    require(same, "classifier", "one of rows as the run has them, in its units", f"one of {found.space!r}")
    own, its = model.condition, found.condition
    fits = own is None or (own.symbols, own.names) == (its.symbols, its.names)
    require(fits, "classifier", f"one of the run's classes, {own!r}", f"one of {its!r}")
    return found.to(model.device, model.dtype)

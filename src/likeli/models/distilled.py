"""A diffusion model's flow in a few steps: a student that jumps where its teacher walks.

The student takes over the teacher's schedule and, at first, its weights.  On a grid t_0 = 1 > … > t_K = 0 one step is DDIM's,

    z_{i+1} = α_{i+1} x̂ + σ_{i+1} ε̂,    ε̂ = (z_i − α_i x̂)/σ_i

and x̂(z_i) is trained until z_{i+1} is where many steps of the teacher's probability flow lead from z_i.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from likeli.config import describe, lookup
from likeli.contract import GenerativeModel, Knows, LogLikelihood, evaluating
from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.sampler import State, trajectory
from likeli.diffusion.schedule import terminal
from likeli.diffusion.solvers import Adams
from likeli.diffusion.times import optimal
from likeli.errors import Unsupported, require
from likeli.nn.embedding import Conditioner
from likeli.probability.draw import draw
from likeli.random import Ambient, Noise, every_row_of
from likeli.spaces import Space


class Distilled(GenerativeModel):
    """‖x̂(z_i) − x̃‖² with x̃ such that one step with it lands where the teacher's flow leads from z_i ~ q(z_i|x).

    It maps noise to data and has no log p(x); its teacher, saved with it, has.  `Distilled.of` makes one from a trained
    teacher; fitted from nothing, it trains a teacher along with it.

    Arguments:
        space: reals, grey levels or symbols.
        teacher: whose flow to learn; a `vdm` if not given.
        steps: K, the evaluations of one sample.
        substeps: the teacher's evaluations in each of them.
        frozen: whether the teacher stays as it is.
        condition: what y is, if anything; the teacher's.

    Source: Salimans & Ho (2022), arXiv:2202.00512, with all stages in one; Song et al. (2023), arXiv:2303.01469.
    """

    knows: ClassVar[Knows] = Knows.NOTHING
    strategy: ClassVar[str] = "sgd"
    kinds: ClassVar[tuple[str, ...]] = ("real", "binary", "pixels", "tokens", "table")
    calls: ClassVar[str] = "steps"
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "ema": 0.99, "clip": 5.0}

    def __init__(
        self,
        space: Space,
        teacher: GaussianDiffusion | None = None,
        steps: int = 4,
        substeps: int = 6,
        frozen: bool = False,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        require(1 <= steps <= 64, "steps", "a whole number from 1 to 64", steps)
        require(2 <= substeps <= 64, "substeps", "a whole number from 2 to 64", substeps)
        if teacher is None:
            teacher = lookup("vdm", GaussianDiffusion)(space, condition=condition)  # type: ignore[type-abstract]
        for name, own in (("space", space), ("condition", condition)):
            theirs = getattr(teacher, name)
            same = own is theirs is None or (own is not None and theirs is not None and describe(own) == describe(theirs))
            require(same, "teacher", f"one of the same {name}", teacher.kind())
        self.teacher, self.steps, self.substeps, self.frozen, self.condition = teacher, steps, substeps, frozen, condition
        self.student = copy.deepcopy(teacher.denoiser)
        self.student.schedule.requires_grad_(False)  # never asked: the teacher's is
        for module in self.student.modules():
            if isinstance(module, Conditioner):
                module.dropout = 0.0  # what to imitate depends on y, even where the student is not shown it
        if frozen:
            teacher.requires_grad_(False)

    @classmethod
    def of(cls, teacher: GaussianDiffusion, steps: int = 4, substeps: int = 6) -> Distilled:
        """A student of a trained teacher, which is copied and frozen, ready to be fitted to the teacher's data.

        Raises:
            InputError: the teacher is not a diffusion model.
        """
        require(isinstance(teacher, GaussianDiffusion), "teacher", "a diffusion model such as vdm", teacher.kind())
        return cls(teacher.space, copy.deepcopy(teacher), steps, substeps, frozen=True, condition=teacher.condition)

    def train(self, mode: bool = True) -> Distilled:
        """Dropout for the student; a frozen teacher stays as it is when evaluated."""
        super().train(mode)
        self.teacher.train(mode and not self.frozen)
        return self

    def times(self) -> Tensor:
        """K · substeps + 1 falling times, of which the student takes every substeps-th."""
        with torch.no_grad():
            cells = math.prod(self.teacher.latent_space.model_shape)
            return optimal(self.teacher.schedule, self.steps * self.substeps, cells)

    def denoise(self, y: Tensor | None = None) -> Denoise:
        """The student, with the condition bound."""
        return Denoise(self.teacher.schedule, lambda z, at: self.student(z, at, y))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """‖x̂ − x̃‖², one of the K steps a row, and the teacher's own loss unless it is frozen; not a bound."""
        u, times = self.teacher.infer(x, y), self.times()
        parts = torch.zeros(len(u), dtype=u.dtype, device=u.device)
        for i in range(self.steps):
            way = times[i * self.substeps : (i + 1) * self.substeps + 1]
            with every_row_of(len(u), i, self.steps) as rows:
                rows = rows.to(u.device)
                missed = self._missed(u[rows], None if y is None else y[rows], way)
            parts = parts.index_add(0, rows, missed)
        return parts if self.frozen else parts + self.teacher.loss(x, y)

    def _missed(self, u: Tensor, y: Tensor | None, way: Tensor) -> Tensor:
        """‖x̂ − x̃‖² at fresh noise for one step of the student, (B,)."""
        eps, (t, s) = torch.randn_like(u), (self.teacher.schedule.at(place) for place in (way[0], way[-1]))
        if not len(u):  # these rows are all another process's, which drew the same
            return u.flatten(1).sum(1)
        with torch.no_grad(), evaluating(self.teacher):
            z = t.alpha.to(u) * u + t.sigma.to(u) * eps
            *_, (_, end) = trajectory(self.teacher.denoise(y), z, way, Ambient(z), Adams(2))
            keep = s.sigma / t.sigma
            wanted = (end - keep.to(u) * z) / (s.alpha - keep * t.alpha).to(u)
        return (self.student(z, t, y).x - wanted).square().flatten(1).sum(1)

    def trajectory(self, noise: Noise, y: Tensor | None = None) -> Iterator[State]:
        """The student's K + 1 states from t = 1 down."""
        zeros = torch.zeros(noise.rows, *self.teacher.latent_space.model_shape, dtype=self.dtype, device=self.device)
        z = draw(terminal(self.teacher.schedule, zeros), noise)
        return trajectory(self.denoise(y), z, self.times()[:: self.substeps], noise, "ddim")

    def observation(self, state: State, y: Tensor | None = None) -> Distribution:
        """The teacher's p(x|z)."""
        return self.teacher.observation(state, y)

    def draw(self, noise: Noise, y: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """x ~ p(x|z_0) of the teacher at the student's last state; with `mean`, E[x|z_0]."""
        (last,) = deque(self.trajectory(noise, y), maxlen=1)
        p = self.observation(last, y)
        return p.mean if mean else draw(p, noise)

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        raise Unsupported("distilled is a map from noise to data without log p(x); ask its teacher, `model.teacher`")

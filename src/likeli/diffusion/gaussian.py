"""Gaussian diffusion: a hierarchy whose q adds Gaussian noise by a schedule and whose p denoises.

    q(z_t|x) = N(α_t x, σ_t²),   p(z_s|z_t) = q(z_s|z_t, x = x̂(z_t)),   p(z_1) = N(0, α_1² + σ_1²)

Levels stand on a grid of times: level 1 at the first, next to the data, level T at t = 1.  With p's variance equal to q's,

    KL(q(z_s|z_t, x) ‖ p(z_s|z_t)) = ½ (e^{γ_t − γ_s} − 1) ‖ε − ε̂(z_t)‖²

so that one random level is an unbiased estimate of the sum, and T → ∞ gives ½ E_t γ'(t) ‖ε − ε̂‖².
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from likeli.contract import Knows, LogLikelihood
from likeli.diffusion.bound import Ledger, State, pick, reference_error, reference_integral, standard_error
from likeli.diffusion.categorical import check_space, gaussian_cells
from likeli.diffusion.denoiser import Bound, Conditional, Denoise, Denoiser, Prediction
from likeli.diffusion.probability_flow import flow, log_density
from likeli.diffusion.sampler import Sampler, trajectory
from likeli.diffusion.schedule import Point, Schedule, bridge
from likeli.diffusion.times import Grid, Proposal, grid_of
from likeli.errors import require
from likeli.latent.chain import Hierarchy
from likeli.probability.draw import diagonal_gaussian, draw
from likeli.probability.information import gaussian_kl
from likeli.random import Ambient, Noise
from likeli.spaces.base import Space

EXACT_DIVERGENCE = 32  # cells up to which the flow's divergence is taken exactly by default
CHAIN = 128  # levels of the chain that samples when time is continuous
TERMINAL_ALARM = 0.01  # nats; beyond it the generative process visibly starts from the wrong distribution


class GaussianDiffusion(Hierarchy):
    """A fixed linear-Gaussian q with a learned denoiser.

    A leaf builds `self.denoiser` and says where its levels stand.

    Arguments:
        space: reals, grey levels or symbols; the latents live in its model units.
        condition: what y is, if anything.

    Raises:
        Unsupported: another space.
    """

    denoiser: Conditional
    default_sampler: ClassVar[str] = "ancestral"
    markov = True
    reads_y: ClassVar[frozenset[str]] = frozenset({"prior"})

    def __init__(self, space: Space, condition: Space | None = None) -> None:
        super().__init__(space)
        check_space(space, self.kind())
        self.condition = condition
        self.proposal: Proposal | None = None

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor: ...

    @property
    def loss_in_nats(self) -> bool:
        """Whether `loss` is −ELBO."""
        return False

    @property
    def notes(self) -> list[str]:
        """What an evaluation should say beside the number."""
        said = "the training loss is a weighted error, not a bound on log p(x); the reported log-likelihood is"
        return [] if self.loss_in_nats else [said]

    def grid(self) -> Tensor:
        """(depth,) rising times in float64; the last is 1."""
        return torch.linspace(0, 1, CHAIN + 1, dtype=torch.float64)

    @property
    def schedule(self) -> Schedule:
        """t → (α, σ)."""
        return self.denoiser.schedule

    @property
    def depth(self) -> int:
        return len(self.grid())

    def infer(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x in model units, which is all that q needs."""
        return self.space.to_model(x, self.dtype)

    def root(self, noise: Noise) -> State:
        zeros = torch.zeros(noise.rows, *self.space.model_shape, dtype=self.dtype, device=self.device)
        return State(self.schedule.at(self.grid()), None, zeros)

    def prior(self, level: int, state: State, y: Tensor | None = None) -> Distribution:
        if state.at is None:
            return self.terminal(state.z)
        return self.reverse(self.denoiser(state.z, state.at, y), pick(state.points, level), state.at)

    def posterior(self, level: int, state: State, context: Tensor, prior: Distribution) -> Distribution:
        s = pick(state.points, level)
        if state.at is None:
            s = s.like(context)
            return diagonal_gaussian(s.alpha * context, s.sigma * torch.ones_like(context))
        a, b, std = (v.to(context) for v in bridge(s, state.at))
        return diagonal_gaussian(a * state.z + b * context, std * torch.ones_like(context))

    def descend(self, level: int, state: State, z: Tensor) -> State:
        return State(state.points, pick(state.points, level), z)

    def observation(self, state: State, y: Tensor | None = None) -> Distribution:
        assert state.at is not None
        return self.emit(state.z, state.at, y)

    def denoise(self, y: Tensor | None = None) -> Denoise:
        """What samplers, guidance and restoration work on: (z, point) → Prediction with the condition bound."""
        return Bound(self.schedule, lambda z, at: self.denoiser(z.to(self.dtype), at, y), self.log_ratio)

    def terminal(self, like: Tensor) -> Distribution:
        """p(z_1) = N(0, α_1² + σ_1²): what data of unit variance arrive at."""
        return diagonal_gaussian(torch.zeros_like(like), self.schedule.prior_std() * torch.ones_like(like))

    def reverse(self, prediction: Prediction, s: Point, t: Point) -> Distribution:
        """p(z_s|z_t): q's own step with x̂ in place of x, and the variance that `log_ratio` says."""
        a, b, std = (v.to(prediction.z) for v in bridge(s, t))
        std = std * (self.log_ratio(s, t) / 2).exp()
        return diagonal_gaussian(a * prediction.z + b * prediction.x, std * torch.ones_like(prediction.z))

    def log_ratio(self, s: Point, t: Point) -> Tensor:
        """log of p's variance over q's at a step; zero here, so that the two agree when x̂ = x."""
        return torch.zeros_like(t.gamma)

    def emit(self, z: Tensor, at: Point, y: Tensor | None = None) -> Distribution:
        """p(x|z) ∝ q(z|x) at the clean end, cell by cell: it needs no network, and errs by little where σ/α is small."""
        at = at.like(z)
        return gaussian_cells(self.space, z / at.alpha, at.sigma / at.alpha)

    def terminal_kl(self, u: Tensor) -> Tensor:
        """KL(q(z_1|x) ‖ p(z_1)), (B,) nats: how far the forward process is from having forgotten x."""
        end, std = self.schedule.at(1.0).like(u), self.schedule.prior_std()
        cells = gaussian_kl(end.alpha * u, end.sigma.to(u), torch.zeros_like(u), std.to(u))
        return cells.flatten(1).sum(1)

    def level_kl(self, u: Tensor, eps: Tensor, s: Point, t: Point, y: Tensor | None = None) -> Tensor:
        """KL(q(z_s|z_t, x) ‖ p(z_s|z_t)) at z_t = α_t u + σ_t ε, (B,).

        With r = log σ_p²/σ_q²:  ½ e^{−r} (e^{γ_t − γ_s} − 1) ‖ε − ε̂‖² + ½ D (e^{−r} − 1 + r).
        """
        return self.error_kl(self.noise_error(u, eps, t, y), s, t)

    def error_kl(self, error: Tensor, s: Point, t: Point) -> Tensor:
        """`level_kl` of a known ‖ε − ε̂‖², (B,)."""
        r, cells = self.log_ratio(s, t), math.prod(self.space.model_shape)
        excess = gaussian_kl(torch.zeros_like(r), torch.ones_like(r), torch.zeros_like(r), (r / 2).exp())
        weight = 0.5 * torch.exp(-r) * torch.expm1(t.gamma - s.gamma)
        return weight.to(error) * error + (cells * excess).to(error)

    def noise_error(self, u: Tensor, eps: Tensor, t: Point, y: Tensor | None = None) -> Tensor:
        """‖ε − ε̂(z_t)‖² at z_t = α_t u + σ_t ε, (B,)."""
        at = t.like(u)
        prediction = self.denoiser(at.alpha * u + at.sigma * eps, t, y)
        return (eps - prediction.eps).square().flatten(1).sum(1)

    def reconstruction(self, x: Tensor, u: Tensor, eps: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x|z_0) at z_0 = α_0 u + σ_0 ε, (B,) nats."""
        first = self.schedule.at(self.grid()[0])
        place = first.like(u)
        return self.emit(place.alpha * u + place.sigma * eps, first, y).log_prob(x)

    def ledger(self, x: Tensor, y: Tensor | None = None, *, noise: Noise | None = None) -> Ledger:
        """The bound over all levels in closed form, at one draw of ε for each level, from level T down to 1."""
        u, noise = self.infer(x, y), noise or Ambient(x)
        points = self.schedule.at(self.grid())
        eps = [noise.normal(*u.shape[1:]).to(u) for _ in range(self.depth)][::-1]
        kls = [self.level_kl(u, eps[i], pick(points, i), pick(points, i + 1), y) for i in range(1, self.depth)]
        return Ledger(self.terminal_kl(u), self.reconstruction(x, u, eps[0], y), torch.stack(kls, 1))

    @property
    def continuous(self) -> bool:
        """Whether the bound is that of infinitely many levels; else it is that of `grid`."""
        return True

    def diffusion_estimate(self, u: Tensor, eps: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """An unbiased estimate of the bound's diffusion term, (B,): t uniform on [0, 1) says where it looks.

        Continuous: ½ ∫ ‖ε − ε̂‖² dγ at γ uniform between its ends.  Else Σ KL over the levels, at one of them.
        """
        if not self.continuous:
            return self.level_estimate(u, eps, t, y)
        first, last = self.ends()
        where, weight = self.place(t)
        at = self.schedule.at(self.schedule.time_of(first + (last - first) * where))
        excess = self.excess(self.noise_error(u, eps, at, y), u, eps, at)
        self.learn_place(where, excess)
        return self.integral(excess, u, (last - first) * weight, first, last)

    def place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where t, uniform on [0, 1), looks, and the weight that keeps an average right: t and 1 without a proposal."""
        return (t, torch.ones_like(t)) if self.proposal is None else self.proposal.place(t)

    def learn_place(self, where: Tensor, value: Tensor) -> None:
        """While training, tell the proposal what was found at `where`."""
        if self.proposal is not None and self.training and torch.is_grad_enabled():
            self.proposal.learn(where, value.detach())

    def excess(self, error: Tensor, u: Tensor, eps: Tensor, at: Point) -> Tensor:
        """‖ε − ε̂‖² less that of the denoiser of N(0, I) at the same draw, (B,), see `likeli.diffusion.bound`."""
        if not isinstance(self.denoiser, Denoiser):  # one that knows its cells are discrete errs by nothing at small noise
            return error
        return error - reference_error(u, eps, at)

    def integral(self, excess: Tensor, u: Tensor, rate: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """One draw of ½ ∫ ‖ε − ε̂‖² dγ from γ = `first` to `last`, (B,).

        Arguments:
            excess: (B,) of `excess`, at γ drawn between the two.
            u: (B, ...) the clean rows.
            rate: 1/density that γ was drawn with: last − first if uniformly, dγ/dt along a schedule.
            first, last: ends.
        """
        known = reference_integral(u, first, last) if isinstance(self.denoiser, Denoiser) else 0
        return 0.5 * (rate.to(u) * excess + known)

    def ends(self) -> tuple[Tensor, Tensor]:
        """γ at t = 0 and at t = 1."""
        first, last = self.schedule.gamma(torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.device))
        return first, last

    def level_estimate(self, u: Tensor, eps: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """An unbiased estimate of Σ_levels KL, (B,): one level a row, chosen by t uniform on [0, 1)."""
        points, gaps = self.schedule.at(self.grid()), self.depth - 1
        where, weight = self.place(t)
        i = (where * gaps).long().clamp(max=gaps - 1)
        s, above = (Point(*(v[j] for v in points)) for j in (i, i + 1))
        kl = self.level_kl(u, eps, s, above, y)
        self.learn_place(where, kl)
        return gaps * weight.to(kl) * kl

    def bound(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Ledger:
        """One draw of the bound at one time a row; ε from torch's ambient generator.

        Arguments:
            x: (B, *shape) in the user's units.
            t: (B,) in [0, 1), float64.
            y: the condition.
        """
        u = self.infer(x, y)
        diffusion = self.diffusion_estimate(u, torch.randn_like(u), t, y)
        return Ledger(self.terminal_kl(u), self.reconstruction(x, u, torch.randn_like(u), y), diffusion[:, None])

    def trajectory(
        self,
        noise: Noise,
        y: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: Sampler | str | None = None,
        grid: Grid | tuple[float, ...] = "time",
    ) -> Iterator[tuple[Point, Tensor]]:
        """Every state of the reverse process, as (point, z) from t = 1 down, for `noise.rows` rows.

        Arguments:
            noise: where z_1 and every later random number come from.
            steps: how many; the model's own levels if not given.
            sampler: how to step, a `Sampler` or the name of one; the model's own if not given.
            grid: how the steps are spaced, see `grid_of`; or falling times, with no `steps`.
        """
        z, levels = draw(self.terminal(self.root(noise).z), noise), steps is None and grid == "time"
        times = self.grid().flip(0) if levels else grid_of(grid, self.schedule, steps, z[0].numel())
        return trajectory(self.denoise(y), z, times, noise, sampler or self.default_sampler)

    def finish(self, noise: Noise, at: Point, z: Tensor, y: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """x ~ p(x|z) for the last state of a trajectory, or E[x|z]."""
        p = self.emit(z.to(self.dtype), at, y)
        return p.mean if mean else draw(p, noise)

    def draw(
        self,
        noise: Noise,
        y: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: Sampler | str | None = None,
        grid: Grid | tuple[float, ...] = "time",
        mean: bool = False,
    ) -> Tensor:
        """x ~ p(x|z_0) at the end of a trajectory, by default the very chain that the bound is of; with `mean`, E[x|z_0]."""
        at, z = deque(self.trajectory(noise, y, steps=steps, sampler=sampler, grid=grid), maxlen=1)[0]
        return self.finish(noise, at, z, y, mean=mean)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The code of x: the noise z_1 that the probability flow takes x's place at the clean end to."""
        u = self.infer(x, y)
        z = self.schedule.at(0.0).like(u).alpha * u
        with torch.no_grad():
            return flow(self.denoiser.given(y), z, 0.0, 1.0)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x|z_0] at the clean end of the probability flow from z_1 = z: the inverse of `encode`."""
        with torch.no_grad():
            return self.emit(flow(self.denoiser.given(y), z, 1.0, 0.0), self.schedule.at(0.0), y).mean

    def measure_likelihood(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        method: Literal["bound", "ode"] = "bound",
        samples: int | None = None,
        probes: int | None = None,
        rtol: float = 1e-5,
    ) -> LogLikelihood:
        """The evidence lower bound, or log p of the probability-flow ODE, which is another model with the same denoiser.

        Arguments:
            method: `bound` or `ode`.
            samples: draws for each example; 16 for the bound, 1 for the ode, where two or more say what dequantisation costs.
            probes: of the ode's divergence; exact up to 32 cells and 16 random ones beyond, if not given.
            rtol: relative and absolute tolerance of the ode.
        """
        require(method in ("bound", "ode"), "method", "bound or ode", method)
        require(samples is None or samples >= 1, "samples", "at least 1", samples)
        mismatch = self.terminal_kl(self.infer(x, y)).mean().item()
        if mismatch > TERMINAL_ALARM:
            warnings.warn(
                f"terminal mismatch KL(q(z_1|x)||p(z_1)) is {mismatch:.3g} nats, more than {TERMINAL_ALARM}: the schedule "
                "ends before the data are forgotten, so samples start from the wrong distribution",
                stacklevel=2,
            )
        if method == "ode":
            value, knows, stderr, errors = self._ode(x, y, samples or 1, probes, rtol)
        else:
            (value, stderr), knows, errors = self._averaged_bound(x, y, samples or 16), Knows.LOWER_BOUND, {}
        errors["terminal_mismatch"] = mismatch
        return LogLikelihood(value, knows, self.space.measure, stderr, errors, self.space.dimensions)

    def _averaged_bound(self, x: Tensor, y: Tensor | None, samples: int) -> tuple[Tensor, Tensor]:
        """The mean over draws with evenly spread times, and its standard error from the differences of neighbouring draws.

        Neighbours differ by their noise and by a little of the trend in t, so that the error is somewhat overstated.
        """
        first = torch.rand(len(x), dtype=torch.float64, device=x.device)
        draws = torch.stack([self.bound(x, (first + k / samples) % 1, y).value for k in range(samples)])
        if samples == 1:
            return draws[0], torch.full_like(draws[0], math.nan)
        return draws.mean(0), (draws.diff(dim=0).square().mean(0) / (2 * samples)).sqrt()

    def _ode(
        self, x: Tensor, y: Tensor | None, samples: int, probes: int | None, rtol: float
    ) -> tuple[Tensor, Knows, Tensor | None, dict[str, float]]:
        """log ∫ p_0(z_0) p(x|z_0) dz_0 with p_0 the flow's density: E_q[log p_0(z_0) + log p(x|z_0) − log q(z_0|x)] on discrete
        cells, z_0 ~ q; log p_0(α_0 x) + D log α_0 on reals."""
        u, noise = self.infer(x, y), Ambient(x)
        end = self.schedule.at(0.0)
        first = end.like(u)
        if probes is None and self.space.dimensions > EXACT_DIVERGENCE:
            probes = 16
        real, parts, found = self.space.measure == "density", [], []
        for _ in range(1 if real else samples):
            eps = torch.zeros_like(u) if real else torch.randn_like(u)
            z = first.alpha * u + first.sigma * eps
            density = log_density(
                self.denoiser.given(y), z, self._log_terminal, probes=probes, noise=noise, rtol=rtol, atol=rtol
            )
            q = diagonal_gaussian(first.alpha * u, first.sigma * torch.ones_like(u))
            parts.append(density.log_p + self.emit(z, end, y).log_prob(x) - q.log_prob(z))
            found.append(density)
        errors = {"ode_tolerance": torch.stack([d.ode_error for d in found]).mean().item()}
        probing = [d.probe_error for d in found if d.probe_error is not None]
        stderr = torch.stack(probing).square().mean(0).sqrt() / math.sqrt(len(probing)) if probing else None
        if stderr is not None:
            errors["probe_noise"] = stderr.mean().item()
        values = torch.stack(parts)
        if samples > 1 and not real:  # the spread over draws holds the probes' as well
            stderr = standard_error(values)
            lost = values.logsumexp(0) - math.log(samples) - values.mean(0)  # what weighting the draws would win back
            errors["dequantisation"] = lost.mean().item()
        return values.mean(0), Knows.ESTIMATE if real else Knows.LOWER_BOUND, stderr, errors

    def _log_terminal(self, z: Tensor) -> Tensor:
        return self.terminal(z).log_prob(z)

"""Gaussian diffusion: a chain of latents whose q adds Gaussian noise by a schedule and whose p denoises.

    q(z_t|x) = N(α_t x, σ_t²),   p(z_s|z_t) = q(z_s|z_t, x = x̂(z_t)),   p(z_1) = N(0, α_1² + σ_1²)

Levels stand evenly in t: level 1 at t = 0, next to the data, level T at t = 1.  One denoiser has three readings: the chain,
walked like any other; its bound, of which one random level is an unbiased estimate; and the probability flow.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from likeli.contract import Elbo, Knows, LogLikelihood, evaluating
from likeli.diffusion.bound import integral, level_kl, noise_error, on_shell, spread_mean, standard_error, terminal_kl
from likeli.diffusion.categorical import gaussian_cells
from likeli.diffusion.denoiser import Denoise, clipped, of_seen
from likeli.diffusion.exponential import DEIS
from likeli.diffusion.guidance import Guidance, Guided, left_of
from likeli.diffusion.probability_flow import flow, log_density
from likeli.diffusion.sampler import Sampler, State, trajectory
from likeli.diffusion.schedule import Point, Schedule, bridge, terminal
from likeli.diffusion.solvers import Adams, Euler
from likeli.diffusion.times import Grid, Proposal, grid_of
from likeli.errors import Unsupported, require, require_draws
from likeli.latent.chain import Choose, Graph, LatentVariableModel, Step
from likeli.probability.draw import diagonal_gaussian, draw
from likeli.random import Ambient, Noise
from likeli.spaces import Space

EXACT_DIVERGENCE = 32  # cells up to which the flow's divergence is taken exactly by default
CHAIN = 128  # steps of the chain that samples when time is continuous
TERMINAL_ALARM = 0.01  # nats; beyond it the generative process visibly starts from the wrong distribution
FEW = Adams(correct=None)  # its corrector helps from 12 steps on
SHORTEST, SHORT = 8, 16  # steps from which DEIS pays where x̂ comes from ε̂, and a grid down to the last symbol
MILD = 12.0  # −d log α/dt at the noise end up to which Euler's method may be taken; a linear β from 0.1 to 20 has 10
SHARES = 256  # parts of the continuous bound among which a score's draws are shared out
GOLDEN = (5**0.5 - 1) / 2  # turns by which come out evenly spread however many there are


class GaussianDiffusion(Guided, LatentVariableModel):
    """A fixed linear-Gaussian q with a learned denoiser.

    A leaf builds `self.denoiser` and trains it.

    Arguments:
        space: reals, grey levels, symbols or a table; the latents live in model units, those of a table in unit vectors.
        condition: what y is, if anything.
        noise: the leaf's name for its schedule, or any schedule.
        levels: of the chain.
        continuous: whether the bound is that of infinitely many levels; else that of the chain's own.

    Raises:
        Unsupported: counts or labels.
    """

    graph = Graph(markov=True, reads_y=frozenset({"prior"}))
    loss_in_nats = False
    default_sampler: Sampler | str

    kinds: ClassVar[tuple[str, ...]] = ("real", "binary", "pixels", "tokens", "table")
    calls: ClassVar[str] = "steps"
    levels_by_cell: ClassVar[bool] = False  # whether a schedule may give each cell a level of its own

    def __init__(
        self,
        space: Space,
        condition: Space | None = None,
        noise: str | Schedule | None = None,
        *,
        levels: int = CHAIN + 1,
        continuous: bool = True,
    ) -> None:
        super().__init__(space)
        self.latent_space = space.vectors or space
        if self.latent_space.spacing is None:
            raise Unsupported(f"{self.kind()} takes reals, grey levels, symbols and tables, not {space.kind()}; vae takes them")
        if isinstance(noise, Schedule):
            ends = torch.stack([g.detach().flatten() for g in noise.gamma_ends()])
            require(bool(ends.isfinite().all()), "noise", "a schedule of finite log SNR at both ends", (-ends[:, 0]).tolist())
            cells = tuple(noise.at(0.0).alpha.shape)
            allowed = ((), tuple(self.latent_space.model_shape)) if self.levels_by_cell else ((),)
            takes = "a schedule with one level for all cells" + f", or cells of {allowed[-1]}" * self.levels_by_cell
            require(cells in allowed, "noise", takes, f"{noise.kind()} of cells {cells}")
        self.takes_missing = self.latent_space is not space  # a part of unit vectors is a row of fewer cells
        self.condition, self.depth, self.continuous, self.default_sampler = condition, levels, continuous, "ancestral"
        self.__dict__["noise"] = noise  # a schedule is the denoiser's, and not saved a second time
        self.proposal: Proposal | None = None

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor: ...

    @property
    def schedule(self) -> Schedule:
        """t → (α, σ)."""
        return self.denoiser.schedule

    def denoise(self, y: Tensor | None = None) -> Denoise:
        given = self.denoiser.given(y)
        return Denoise(self.schedule, lambda z, at: given(z.to(self.dtype), at), errs_at_small_noise=given.errs_at_small_noise)

    # --- the chain -----------------------------------------------------------------------------------------------------

    def infer(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x in model units, which is all that q needs.

        Raises:
            Unsupported: missing cells, which the chain would draw.
        """
        if x.is_floating_point() and bool(x.isnan().any()):
            raise Unsupported("missing cells have no chain of states; log_likelihood by its bound and impute take them")
        return self.latent_space.to_model(x, self.dtype)

    def walk(
        self, noise: Noise, y: Tensor | None = None, *, context: Any = None, choose: Choose | None = None
    ) -> Iterator[Step]:
        zeros = torch.zeros(noise.rows, *self.latent_space.model_shape, dtype=self.dtype, device=self.device)
        points, denoise, at, z = self.schedule.levels(self.depth), self.denoise(y), None, zeros
        for level in range(self.depth, 0, -1):
            s, q = points.of(level - 1), None
            if at is None:
                p, a, b, std = terminal(self.schedule, zeros), s.t.new_zeros(()), s.alpha, s.sigma
            else:
                p, (a, b, std) = reverse(denoise, z, s, at), bridge(s, at)
            if context is not None:
                a, b, std = (s._replace(gamma=v).like(zeros).gamma for v in (a, b, std))
                q = diagonal_gaussian(a * z + b * context, std * torch.ones_like(context))
            law = p if q is None else q
            at, z = s, draw(law, noise) if choose is None else choose(level, law)
            yield Step(level, p, q, z, State(at, z))

    def observation(self, state: State, y: Tensor | None = None) -> Distribution:
        """p(x|z) ∝ q(z|x) at the clean end, cell by cell: it needs no network, and errs by little where σ/α is small."""
        at, z = state.at.like(state.z), state.z
        return gaussian_cells(self.latent_space, z / at.alpha, at.sigma / at.alpha)

    # --- the bound -----------------------------------------------------------------------------------------------------

    def bound(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, *, noise: Noise | None = None, shell: Tensor | None = None
    ) -> Elbo:
        """One draw of the bound at one time a row, its KL that of the diffusion and that of the top level.

        Arguments:
            x: (B, *shape) in the user's units.
            t: (B,) in [0, 1), float64: where the loss looks.
            y: the condition.
            noise: where ε is drawn from; torch's ambient generator if not given.
            shell: (B,) quantiles of ‖ε‖², see `on_shell`, for a score: t is then shared out among the levels by `_shared`.
        """
        u, first = self.latent_space.to_model(x, self.dtype), self.schedule.at(0.0)
        drawn, eps = (torch.randn_like(u) if noise is None else noise.normal(*u.shape[1:]) for _ in range(2))
        drawn = drawn if shell is None else on_shell(drawn, shell)
        given = self.denoise(y), u, drawn
        denoise, u, drawn = of_seen(*given) if self.takes_missing else given
        place = first.like(u)
        diffusion = self._diffusion(denoise, u, drawn, *(self._place(t) if shell is None else self._shared(t)))
        p = self.observation(State(first, place.alpha * u + place.sigma * eps), y)
        return Elbo(p.log_prob(x), torch.stack([diffusion, terminal_kl(self.schedule, u)], 1))

    def _diffusion(self, denoise: Denoise, u: Tensor, eps: Tensor, where: Tensor, weight: Tensor) -> Tensor:
        """An unbiased estimate of the bound's diffusion term, (B,), at places in [0, 1) of density 1/weight.

        Continuous: ½ ∫ ‖ε − ε̂‖² dγ at γ uniform between its ends.  Else Σ KL over the levels, at one of them.
        """
        if self.continuous:
            first, last = self.schedule.gamma_ends()
            at = self.schedule.at(self.schedule.time_of(self._gamma(where)))
            estimate, seen = integral(denoise, u, eps, at, (last - first) * weight)
        else:
            points, gaps = self.schedule.levels(self.depth), self.depth - 1
            i = (where * gaps).long().clamp(max=gaps - 1).cpu()
            s, at = points.of(i), points.of(i + 1)
            seen = level_kl(denoise, noise_error(denoise, u, eps, at), s, at)
            estimate = gaps * weight.to(seen) * seen
        self._learn(where, seen)
        return estimate

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where t, uniform on [0, 1), looks, and the weight that keeps an average right: t and 1 without a proposal."""
        return (t, torch.ones_like(t)) if self.proposal is None else self.proposal.place(t)

    def _shared(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a score, which has few draws for each row where a training batch covers all levels.

        Nine in ten look in proportion to a KL that is known, ½ (e^{γ_t − γ_s} − 1) sigmoid(−γ_t) of the best denoiser of
        N(0, I), less where symbols at distance d have long been told apart, by e^{−SNR d²/100}.
        """
        if self.continuous and not self.latent_space.spacing:
            return self._place(t)
        edges = torch.linspace(0, 1, SHARES + 1, dtype=torch.float64)
        gamma = self._gamma(edges) if self.continuous else self.schedule.levels(self.depth).gamma
        gamma = gamma.reshape(len(gamma), -1).mean(1)
        step, at = gamma.diff() if self.continuous else torch.expm1(gamma.diff()), -gamma[1:]
        kl = step * at.sigmoid() * torch.exp(-at.exp() * (self.latent_space.spacing or 0.0) ** 2 / 100)
        share = 0.9 * kl / kl.sum() + 0.1 / len(kl)
        above = share.cumsum(0)
        i = torch.searchsorted(above, t.to(share), right=True).clamp(max=len(kl) - 1)
        inside = ((t.to(share) - (above - share)[i]) / share[i]).clamp(0, 1 - 1e-9) if self.continuous else 0.5
        return (i + inside) / len(kl), 1 / (len(kl) * share[i])

    def _gamma(self, where: Tensor) -> Tensor:
        """γ at a place in [0, 1) where the continuous bound looks: even in γ between its ends."""
        first, last = self.schedule.gamma_ends()
        return first + (last - first) * where

    def _learn(self, where: Tensor, value: Tensor) -> None:
        """While training, tell the proposal what was found at `where`."""
        if self.proposal is not None and self.training and torch.is_grad_enabled():
            self.proposal.learn(where, value.detach())

    # --- samples -------------------------------------------------------------------------------------------------------

    def trajectory(
        self,
        noise: Noise,
        y: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: Sampler | str | None = None,
        grid: Grid | tuple[float, ...] | None = None,
        clip: tuple[float, float] | None = None,
        guidance: Guidance | float | None = None,
    ) -> Iterator[State]:
        """Every state of the reverse process, from t = 1 down, for `noise.rows` rows.

        Arguments:
            noise: where z_1 and every later random number come from.
            steps: how many; the model's own levels if not given.
            sampler: how to step, a `Sampler` or the name of one; see `own_way` if not given.
            grid: how the steps are spaced, see `grid_of`; or falling times, with no `steps`.  If not given even in time, and
                for fewer steps of no named sampler as `own_way` says.
            clip: least and largest x̂, in the user's units; the samples are then not of the chain that the bound is of.
            guidance: γ of x̂₀ + γ (x̂_y − x̂₀) with x̂₀ the belief without y, or a `Guidance` that says more: 1 is the plain
                conditional model, 0 the unconditional one, and other samples are of no posterior.
        """
        zeros = torch.zeros(noise.rows, *self.latent_space.model_shape, dtype=self.dtype, device=self.device)
        z = draw(terminal(self.schedule, zeros), noise)
        own, spaced = own_way(self, steps)
        if steps is None and grid in (None, "time"):
            times = self.schedule.levels(self.depth).t.flip(0)
        else:
            times = grid_of(grid or ("time" if sampler else spaced), self.schedule, steps, z[0].numel())
        denoise = self.denoise(y) if guidance is None else self.guided(y, guidance)
        denoise = denoise if clip is None else clipped(denoise, *self._edges(clip))
        return trajectory(denoise, z, times, noise, sampler or own)

    def _edges(self, clip: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Least and largest x̂ in model units."""
        require(self.latent_space.model_shape == self.space.shape, "clip", "reals or grey levels", self.space.kind())
        require(len(clip) == 2 and clip[0] < clip[1], "clip", "least and largest x̂, rising", clip)
        edges = torch.tensor(clip, dtype=torch.float64).reshape(2, *[1] * len(self.space.shape)).expand(2, *self.space.shape)
        least, largest = self.space.to_model(self.space.check(edges, what="clip"), self.dtype).split(1)
        return least, largest

    def draw(
        self,
        noise: Noise,
        y: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: Sampler | str | None = None,
        grid: Grid | tuple[float, ...] | None = None,
        mean: bool = False,
        clip: tuple[float, float] | None = None,
        guidance: Guidance | float | None = None,
    ) -> Tensor:
        """x ~ p(x|z_0) at the end of a trajectory, by default the very chain that the bound is of; with `mean`, E[x|z_0]."""
        way = self.trajectory(noise, y, steps=steps, sampler=sampler, grid=grid, clip=clip, guidance=guidance)
        (last,) = deque(way, maxlen=1)
        p = self.observation(last, y if guidance is None else left_of(y, guidance))
        x = p.mean if mean else draw(p, noise)
        return x if clip is None else x.clamp(*clip)

    # --- the probability flow ------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The code of x: the noise z_1 that the probability flow takes x's place at the clean end to."""
        u = self.infer(x, y)
        with evaluating(self), torch.no_grad():  # dropout would make it another flow at every step
            return flow(self.denoise(y), self.schedule.at(0.0).like(u).alpha * u, 0.0, 1.0)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x|z_0] at the clean end of the probability flow from z_1 = z: the inverse of `encode`."""
        with evaluating(self), torch.no_grad():
            return self.observation(State(self.schedule.at(0.0), flow(self.denoise(y), z, 1.0, 0.0)), y).mean

    # --- log p ---------------------------------------------------------------------------------------------------------

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
        if samples is not None:
            require_draws("samples", samples)
        if method == "ode":
            value, knows, stderr, errors = self._ode(x, y, samples or 1, probes, rtol)
        else:
            (value, stderr), knows, errors = self._averaged_bound(x, y, samples or 16), Knows.LOWER_BOUND, {}
        errors["terminal_mismatch"] = terminal_kl(self.schedule, self.latent_space.to_model(x, self.dtype).nan_to_num(0))
        if errors["terminal_mismatch"].mean() > TERMINAL_ALARM:
            warnings.warn(
                f"terminal mismatch KL(q(z_1|x)||p(z_1)) is more than {TERMINAL_ALARM} nats: the schedule ends before the data "
                "are forgotten, so samples start from the wrong distribution",
                stacklevel=2,
            )
        means = {name: by_row.mean().item() for name, by_row in errors.items()}
        return LogLikelihood(value, knows, self.space.measure, stderr, means, self.space.dimensions, errors)

    def _averaged_bound(self, x: Tensor, y: Tensor | None, samples: int) -> tuple[Tensor, Tensor]:
        """The mean over draws with evenly spread times and ‖ε‖, and its standard error."""
        noise = Ambient(x)
        first, second = noise.uniform().double(), noise.uniform().double()
        shells = [((second + k * GOLDEN) % 1).clamp(1e-6, 1 - 1e-6) for k in range(samples)]
        times = [(first + k / samples) % 1 for k in range(samples)]
        return spread_mean(torch.stack([self.bound(x, t, y, noise=noise, shell=s).value for t, s in zip(times, shells)]))

    def _ode(
        self, x: Tensor, y: Tensor | None, samples: int, probes: int | None, rtol: float
    ) -> tuple[Tensor, Knows, Tensor | None, dict[str, Tensor]]:
        """log ∫ p_0(z_0) p(x|z_0) dz_0 with p_0 the flow's density: E_q[log p_0(z_0) + log p(x|z_0) − log q(z_0|x)] on discrete
        cells, z_0 ~ q; log p_0(α_0 x) + D log α_0 on reals."""
        u, noise, clean = self.infer(x, y), Ambient(x), self.schedule.at(0.0)
        first, real = clean.like(u), self.space.measure == "density"
        if probes is None and self.space.dimensions > EXACT_DIVERGENCE:
            probes = 16
        q, parts, found = diagonal_gaussian(first.alpha * u, first.sigma * torch.ones_like(u)), [], []
        for _ in range(1 if real else samples):
            z = first.alpha * u + first.sigma * (torch.zeros_like(u) if real else noise.normal(*u.shape[1:]))
            density = log_density(
                self.denoise(y), z, lambda z: terminal(self.schedule, z).log_prob(z),
                probes=probes, noise=noise, rtol=rtol, atol=rtol,
            )  # fmt: skip
            parts.append(density.log_p + self.observation(State(clean, z), y).log_prob(x) - q.log_prob(z))
            found.append(density)
        errors = {"ode_tolerance": torch.stack([d.ode_error for d in found]).mean(0)}
        probing = [d.probe_error for d in found if d.probe_error is not None]
        stderr = torch.stack(probing).square().mean(0).sqrt() / math.sqrt(len(probing)) if probing else None
        if stderr is not None:
            errors["probe_noise"] = stderr
        values = torch.stack(parts)
        if samples > 1 and not real:  # the spread over draws holds the probes' as well
            stderr = standard_error(values)
            lost = values.logsumexp(0) - math.log(samples) - values.mean(0)  # what weighting the draws would win back
            errors["dequantisation"] = lost
        return values.mean(0), Knows.ESTIMATE if real else Knows.LOWER_BOUND, stderr, errors


def own_way(model: GaussianDiffusion, steps: int | None) -> tuple[Sampler | str, Grid]:
    """How a model samples in so many steps by itself: its own chain if none or all of its levels are asked for, else the flow.

    Adams' method ends nearest to the flow on the grid `optimal`; even in log SNR from 16 steps on, where x̂ snaps to symbols at
    small noise.  Where x̂ comes from ε̂ the network's error in it is multiplied by σ/α, and a large step at the noise end carries
    that into the sample: DEIS, which looks at ε̂ alone, is nearest there, on `karras`.  In fewer than 8 steps it extrapolates
    too far, and Euler's method is taken unless σ itself grows.
    """
    schedule, chain = model.schedule, model.default_sampler == "ancestral"
    if steps is None or (chain and steps >= model.depth - 1) or schedule.at(0.0).alpha.ndim:
        return model.default_sampler, "time"
    if not model.denoiser.divides_by_alpha:
        return FEW, "log_snr" if model.denoiser.snaps and steps >= SHORT else "optimal"
    end = schedule.at(1.0)
    falls, grows = (v.item() for v in schedule.velocity(end.t))
    if steps >= SHORTEST or grows / end.sigma.item() > MILD / 100:
        return DEIS(), "karras"
    return Euler(), "time" if -falls / end.alpha.item() <= MILD else "karras"


def reverse(denoise: Denoise, z: Tensor, s: Point, t: Point) -> Distribution:
    """p(z_s|z_t): q's own step with x̂ in place of x, and the variance that `denoise.log_ratio` says."""
    a, b, std = (s._replace(gamma=v).like(z).gamma for v in bridge(s, t))
    std = std * (denoise.log_ratio(s, t) / 2).exp().to(z)
    return diagonal_gaussian(a * z + b * denoise(z, t).x, std * torch.ones_like(z))

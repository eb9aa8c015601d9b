"""Whether log p, the sampler and the latents of a model are what they are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.diffusion.gaussian import TERMINAL_ALARM, GaussianDiffusion
from likeli.errors import Unsupported
from likeli.evaluation.collapse import COLLAPSED_KL, HOLE_MISMATCH, HOLE_SHARE, reading_of_y
from likeli.evaluation.examination import Case, Sign, health_check, losses_of, z_of
from likeli.evaluation.own_density import movable_cells, sampler_test
from likeli.latent.chain import LatentVariableModel
from likeli.latent.estimators import importance
from likeli.models.discrete_diffusion import DiscreteDiffusion
from likeli.nn.conv import NormConv
from likeli.nn.mlp import ByteDropout
from likeli.probability.importance import diagnose
from likeli.random import derive, seeded

STATES = 2**12  # of a row that are listed to sum their masses
QUIET = 0.3  # nats of noise in log p, below which E exp(log p̂) is its mean times about 1 + s²/2
CELLS, CENTRES, DRAWS = 8, 200, 4000  # of the proposal that a density is integrated with
WIDTHS = torch.tensor([0.1, 0.4, 1.6], dtype=torch.float64)  # of its kernels, in those of Scott's rule
GOOD_K = 0.7  # Pareto k̂ below which an average of weights has an error that can be trusted: Vehtari et al. (2015)
NO_MEAN, FEW_WEIGHTS = 1.0, 3.0  # k̂ from which weights have no mean, effective sample size that one or two draws make up
MORE = 6  # times as many draws, where noise hides what log p reads
SIGMAS = 4.0  # standard errors that chance is allowed: one side of a normal law has 3.2e-5
NORMAL_TAIL = 3.2e-5


@health_check(
    "mass",
    condition="the masses of all states sum to 1, or the density integrates to 1, within 4 s.e. and 1 %; a bound to no more",
    remedy="look for a missing log-Jacobian, constant or normalisation in log p; `likeli verify` has the identities",
    false_alarm=1e-3,
)
def mass(case: Case) -> Sign:
    """Σ p(x) over every state of a small discrete row, or E_q p(x)/q(x) for few real cells."""
    if case.model.knows_here not in (Knows.EXACT, Knows.LOWER_BOUND) or case.space.end is not None:
        raise Unsupported("the mass of a number that is neither exact nor a bound, or of rows of any length, is not known")
    noise = 0.0 if case.scores.stderr is None else case.scores.stderr.double().nan_to_num(math.inf).mean().item()
    if noise > QUIET:
        raise Unsupported(f"log p is known to {noise:.2g} nats a row, too few to sum its exponential")
    flat = case.x.reshape(len(case.x), -1).double()
    cells = movable_cells(case.space, flat)
    if bool(cells.whole.all()):
        total, error, told, known = _sum_of_masses(case, cells.sizes)
    elif case.space.measure == "density" and flat.shape[1] <= CELLS and not flat.isnan().any():
        total, error, told, known = _integral(case, flat)
    else:
        raise Unsupported(f"summed for up to {STATES} states, integrated for up to {CELLS} real cells")
    allowed = SIGMAS * error + 0.01
    wrong = total - 1 > allowed or (case.scores.knows is Knows.EXACT and 1 - total > allowed)
    return Sign(total, None if not known else not wrong, told)


def _sum_of_masses(case: Case, sizes: Tensor) -> tuple[float, float, str, bool]:
    if not bool((sizes > 0).all()) or (count := math.prod(sizes.tolist())) > STATES:
        raise Unsupported(f"a row has more than {STATES} states")
    states = torch.cartesian_prod(*[torch.arange(n) for n in sizes.tolist()]).reshape(count, *case.space.shape)
    y = None if case.y is None else case.y[:1].expand(count, *case.y.shape[1:])
    found = case.model.log_likelihood(case.space.check(states), y, seed=case.seed)
    p = _log_p(found).exp()
    error = 0.0 if found.stderr is None else float((p * found.stderr.double().nan_to_num(0)).square().sum().sqrt())
    return float(p.sum()), error, f"{count} states summed, s.e. {error:.2g}", True


def _integral(case: Case, flat: Tensor) -> tuple[float, float, str, bool]:
    """E_q p/q with q half kernels at samples and held-out rows, half a wide Student law, in whitened units."""
    y = None if case.y is None else case.y[:1]
    drawn = case.model.sample(CENTRES, y, seed=derive(case.seed, "mass")).reshape(CENTRES, -1)
    pool = torch.cat([drawn.double().cpu(), flat.cpu()[:CENTRES]])
    pool = pool[pool.isfinite().all(1)]
    mean, covariance = pool.mean(0), pool.T.cov().reshape(flat.shape[1], -1)
    spread = covariance + 1e-9 * covariance.diagonal().mean() * torch.eye(len(mean))
    root = torch.linalg.cholesky(spread)
    d, n = len(mean), len(pool)
    centres = torch.linalg.solve_triangular(root, (pool - mean).T, upper=False).T
    widths = WIDTHS * n ** (-1 / (d + 4))
    with seeded(case.seed, "mass"):
        width = widths[torch.randint(len(widths), (DRAWS,))][:, None]
        near = centres[torch.randint(n, (DRAWS,))] + width * torch.randn(DRAWS, d, dtype=torch.float64)
        chi = torch.distributions.Chi2(torch.tensor(4.0, dtype=torch.float64)).sample((DRAWS, 1)) / 4
        far = 1.5 * torch.randn(DRAWS, d, dtype=torch.float64) / chi.sqrt()
        u = torch.where(torch.rand(DRAWS, 1) < 0.5, near, far)
    square = torch.cdist(u, centres).square()
    kernels = torch.cat([-square / (2 * w**2) - d * (w * math.sqrt(2 * math.pi)).log() for w in widths], 1)
    log_near = kernels.logsumexp(1) - math.log(n * len(widths))
    log_far = _student(u / 1.5) - d * math.log(1.5)
    log_q = torch.logaddexp(log_near, log_far) - math.log(2) - root.diagonal().log().sum()
    x = case.space.check((mean + u @ root.T).reshape(-1, *case.space.shape)).to(case.x.dtype)
    log_w = _log_p(case.model.log_likelihood(x, y, seed=case.seed)) - log_q
    k = diagnose(log_w[:, None]).pareto_k.item()
    w = log_w.exp()
    error = (w.std() / math.sqrt(DRAWS)).item()
    return w.mean().item(), error, f"{DRAWS} draws of a proposal, s.e. {error:.2g}, Pareto k {k:.2f}", k <= GOOD_K


def _log_p(found: LogLikelihood) -> Tensor:
    """log p less what the exponential makes of its noise, twice over: a bound is only asked whether it is too large."""
    value = found.value.double().cpu()
    return value if found.stderr is None else value - found.stderr.double().cpu().nan_to_num(0).square()


def _student(u: Tensor, nu: float = 4.0) -> Tensor:
    """log density of the standard multivariate t law with ν degrees of freedom, (n, d) → (n,)."""
    d = u.shape[1]
    constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
    return constant - (nu + d) / 2 * (u.square().sum(1) / nu).log1p()


@health_check(
    "sampler",
    condition="p > 0.001 that its draws follow the density that it states",
    remedy="compare `draw` with log p: a temperature, a clipped or truncated draw, a transform used one way only",
    false_alarm=1e-3,
)
def sampler(case: Case) -> Sign:
    """Metropolis moves that leave log p alone must not make samples drift."""
    y = None if case.y is None else case.y[:1].expand(200, *case.y.shape[1:])
    found = sampler_test(case.model, y, n=200, steps=10, seed=case.seed)
    told = f"{found.n} samples after {found.steps} moves: {found.drift} drifts most, log p rises by {found.rise:.3g} nats"
    return Sign(found.p, found.p > 0.001, told)


@health_check(
    "terminal mismatch",
    condition=f"KL(q(z₁|x) ‖ p(z₁)) ≤ {TERMINAL_ALARM:g} nats",
    remedy="a schedule that ends with less signal: a larger gamma_max, beta_max or sigma_max, and train again",
)
def terminal_mismatch(case: Case) -> Sign:
    """What the noising process has not forgotten of x at its end, where the sampler starts from plain noise."""
    if not isinstance(case.model, GaussianDiffusion):
        raise Unsupported(f"{case.model.kind()} has no noising process")
    nats = case.scores.errors["terminal_mismatch"]
    return Sign(nats, nats <= TERMINAL_ALARM, f"the mean of {len(case.x)} rows")


@health_check(
    "importance weights",
    condition=f"Pareto k̂ < {NO_MEAN:g} and an effective sample size of at least {FEW_WEIGHTS:g} of 200, on half of the rows",
    remedy="more `samples` in evaluations, a better encoder (wider, trained longer), or `likeli.latent.refinement`",
    false_alarm=None,
)
def importance_weights(case: Case) -> Sign:
    """Whether q(z|x) is near enough to the posterior for importance weights to have a mean that draws can find."""
    if not isinstance(case.model, LatentVariableModel) or isinstance(case.model, (GaussianDiffusion, DiscreteDiffusion)):
        raise Unsupported(f"{case.model.kind()} is not scored by importance weights")
    x, y = case.few(64)
    found = importance(case.model, x, y, samples=200, seed=case.seed).diagnostics
    share = ((found.pareto_k < NO_MEAN) & (found.ess >= FEW_WEIGHTS)).double().mean().item()
    told = f"median k̂ {found.pareto_k.median():.2f}, median effective sample size {found.ess.median():.0f}, {len(x)} rows; "
    good = (found.pareto_k <= GOOD_K).double().mean().item()
    return Sign(share, share >= 0.5, f"{told}an average of weights has an error to trust (k̂ ≤ {GOOD_K:g}) on {good:.0%}")


@health_check(
    "loss is a bound",
    condition="the loss that is called nats is no less than −log p(x), within 4 s.e.",
    remedy="a weight of the KL below 1 (beta) makes the loss smaller than a bound: judge by `evaluate`, or train with beta 1",
    false_alarm=NORMAL_TAIL,
)
def loss_is_a_bound(case: Case) -> Sign:
    """E loss(x) + log p(x) ≥ 0, row by row against the family's best number."""
    if not case.model.loss_in_nats:
        raise Unsupported("its loss is not called a bound")
    losses = losses_of(case.model, case.x, case.y, case.seed)
    gap, error = z_of(losses + case.scores.value.double().cpu())
    told = f"the loss lies {abs(gap):.3g} ± {error:.2g} nats {'above' if gap >= 0 else 'below'} −log p(x), {len(case.x)} rows"
    return Sign(gap, gap >= -SIGMAS * error - 1e-4 * (1 + losses.abs().mean().item()), told)


@health_check(
    "scores differ",
    condition="log p(x) differs between rows that differ, by more than its own noise",
    remedy="look at whether log p reads x at all, and whether training had an effect",
    false_alarm=None,
)
def scores_differ(case: Case) -> Sign:
    """The spread of log p over distinct rows."""
    rows = case.x.reshape(len(case.x), -1)
    if len(rows.unique(dim=0)) < 2:
        raise Unsupported("the held-out rows are all alike")
    for draws in (1, MORE):  # halves that agree are told apart from noise; if they do not, with noise averaged away
        halves = [torch.stack([case.score(2 * i + j).value.double() for i in range(draws)]).mean(0) for j in range(2)]
        known = halves[0].isfinite() & halves[1].isfinite()
        if not known.any():
            return Sign(None, None, "no row has a finite log p")
        v, w = (half[known] for half in halves)
        spread = v.std().item() if len(v) > 1 else math.inf
        noise = ((v - w).square().mean() / 2).sqrt().item()
        if spread <= 1e-6 * (1 + v.abs().mean().item()):
            return Sign(spread, False, f"standard deviation over {len(v)} rows")
        shared = 1 - (noise / spread) ** 2  # of the variance
        if shared > 3 / math.sqrt(len(v)):
            break
    told = f"standard deviation over {len(v)} rows, {noise:.2g} nats of it noise"
    return Sign(spread, shared > 3 / math.sqrt(len(v)), told)


@health_check(
    "company",
    condition="a row's log p is the same alone, reversed and among others, to 1e-4 of itself",
    remedy="batch statistics in the network or in log p (BatchNorm in training mode, a mean over the batch): use LayerNorm",
)
def company(case: Case) -> Sign:
    """Batch-dependence."""
    x, y = case.few(16)
    whole = case.model.log_likelihood(x, y, seed=case.seed).value.double()
    back = case.model.log_likelihood(x.flip(0), None if y is None else y.flip(0), seed=case.seed).value.double().flip(0)
    few = min(len(x), 4)
    ones = [case.model.log_likelihood(x[i : i + 1], None if y is None else y[i : i + 1], seed=case.seed) for i in range(few)]
    alone = torch.cat([one.value.double() for one in ones])
    off = torch.cat([whole - back, whole[:few] - alone]).abs().nan_to_num(0.0)
    scale = 1 + whole.abs().nan_to_num(0.0, posinf=0.0, neginf=0.0).max()
    worst = (off.max() / scale).item()
    return Sign(worst, worst <= 1e-4, f"largest change of {len(x)} rows in other company, relative")


class _Dropouts(TorchFunctionMode):
    """Counts calls of a dropout that is on: of torch's functions, and of `ByteDropout`, which draws by itself."""

    found = 0

    def __enter__(self) -> _Dropouts:
        self.hook = register_module_forward_pre_hook(self._look)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.hook.remove()

    def _look(self, module: nn.Module, given: Any) -> None:
        layer = module.dropout if isinstance(module, NormConv) else module
        self.found += isinstance(layer, ByteDropout) and layer.training and layer.p > 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        words = kwargs or {}
        if "dropout" in getattr(func, "__name__", ""):
            p = words.get("p", args[1] if len(args) > 1 else 0.5)
            on = words.get("training", words.get("train", args[2] if len(args) > 2 else True))
            self.found += bool(on) and p > 0
        return func(*args, **words)


@contextmanager
def _in_training_mode(model: GenerativeModel) -> Iterator[None]:
    """As after `model.train()`: scoring must look after itself."""
    modes = {m: m.training for m in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@health_check(
    "noise at scoring",
    condition="no dropout is on while log p is found, and another seed moves it by no more than it says",
    remedy="pass `training=self.training` to functional dropout, and let `log_likelihood` put the model in evaluation mode",
    false_alarm=1e-6,
)
def noise_at_scoring(case: Case) -> Sign:
    """Dropout that is on, or draws that no standard error owns up to."""
    x, y = case.few(64)
    with _in_training_mode(case.model), _Dropouts() as dropouts:
        found = [case.model.log_likelihood(x, y, seed=derive(case.seed, "noise", i)) for i in range(2)]
    if dropouts.found:
        told = f"dropout was on in {dropouts.found} calls while {len(x)} rows were scored"
        return Sign(float(dropouts.found), False, told)
    apart = (found[0].value.double() - found[1].value.double()).abs().nan_to_num(0.0)
    errors = [f.stderr for f in found if f.stderr is not None]
    if len(errors) < 2:
        worst = (apart.max() / (1 + found[0].value.double().abs().nan_to_num(0.0, posinf=0.0, neginf=0.0).max())).item()
        return Sign(worst, worst <= 1e-5, f"largest relative change of {len(x)} rows with another seed; none is stated")
    stated = torch.hypot(*(e.double().nan_to_num(math.inf) for e in errors))
    z = (apart / stated.clamp(min=1e-9)).median().item()
    told = f"median of the change with another seed over its stated s.e., {len(x)} rows; 0.67 if it is honest"
    return Sign(z, z <= 1.5 if len(x) >= 30 else None if z > 1.5 else True, told)


@health_check(
    "posterior collapse",
    condition=f"every level of latents carries {COLLAPSED_KL:g} nats or more",
    remedy="kl_warmup, free_nats, a weaker decoder, or fewer levels",
)
def posterior_collapse(case: Case) -> Sign:
    """E KL(q ‖ p) of the idlest level."""
    found = case.latents
    told = f"E KL by level: {', '.join(f'{kl:.3g}' for kl in found.kl_by_level)} nats, {found.rows} rows"
    return Sign(min(map(abs, found.kl_by_level)), not found.dead, told)


@health_check(
    "prior hole",
    condition=f"KL(q̄ ‖ p) ≤ {HOLE_MISMATCH:g} nats, and at most {HOLE_SHARE:.0%} of prior draws where codes hardly ever are",
    remedy="prior_family mixture, vamp or flow; samples come from codes that no example has",
    false_alarm=0.025,
)
def prior_hole(case: Case) -> Sign:
    """What the aggregate posterior and the prior do not share."""
    found = case.latents
    nats, sure = found.missed
    if nats is None:
        raise Unsupported("the prior depends on y, or there are too few rows")
    share = "" if found.hole is None else f"; {found.hole:.1%} of prior draws lie where 1 % of codes do"
    return Sign(nats, not (found.hollow or sure > HOLE_MISMATCH), f"{found.rows} rows{share}")


@health_check(
    "condition",
    condition="log p(x|y) falls by more than 3 s.e. when y is shuffled",
    remedy="check that y tells of x at all, that the network is given it, and that dropping it in training is not too frequent",
    false_alarm=None,
)
def reads_condition(case: Case) -> Sign:
    """Whether the model reads y."""
    if case.y is None:
        raise Unsupported("the model is not conditional")
    if len(case.y.reshape(len(case.y), -1).unique(dim=0)) < 2:
        raise Unsupported("the held-out rows have one y only")
    found = reading_of_y(case.model, case.x, case.y, seed=case.seed)
    return Sign(found.gap, found.gap > 3 * found.stderr, str(found))

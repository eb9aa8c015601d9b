"""Diffusion of symbols: kernels, the bound against every path, and the autoregressive model that masks are."""

from __future__ import annotations

import itertools
import math
from collections import deque

import torch
from torch import Tensor, nn

from likeli.discrete.backbone import SymbolBackbone
from likeli.discrete.corruption import Corruption, log_one_hot, matrices
from likeli.discrete.elbo import Reverse
from likeli.discrete.orders import chain_rule
from likeli.discrete.samplers import SAMPLERS
from likeli.models.discrete_diffusion import CORRUPTIONS, DiscreteDiffusion
from likeli.random import Streams
from likeli.spaces import Tokens
from likeli.theory.check import identity

ALPHAS = (0.95, 0.8, 0.62, 0.4, 0.13, 0.0)


class ArbitraryGuesses(nn.Module):
    """A table of logits, one entry for every z: guesses that no joint law need fit.

    Arguments:
        cells: D.
        states: what z can be in each cell.
        symbols: logits of each cell.
    """

    def __init__(self, cells: int, states: int, symbols: int) -> None:
        super().__init__()
        self.place = states ** torch.arange(cells)
        self.table = torch.randn(states**cells, cells, symbols, dtype=torch.float64)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        return self.table[(z * self.place).sum(1)]


def guessing(
    cells: int, symbols: int, corruption: str = "absorbing", schedule: str = "log_linear", steps: int | None = None
) -> DiscreteDiffusion:
    """A model of Tokens(cells, symbols) with arbitrary guesses, in float64."""
    backbone = SymbolBackbone(hidden=(8,), timed=corruption != "absorbing")
    model = DiscreteDiffusion(Tokens(cells, symbols), corruption, schedule, steps, backbone).double()
    model.net = ArbitraryGuesses(cells, model.kernel.states, symbols)
    return model


def every(cells: int, symbols: int) -> Tensor:
    """All rows of so many cells, (symbols^cells, cells)."""
    return torch.tensor(list(itertools.product(range(symbols), repeat=cells)))


@identity("R75", "R76", "I29", title="Q̄_t in closed form = the matrix product of its steps = exp of the rates", tolerance=1e-12)
def closed_kernels_are_products() -> float:
    worst = 0.0
    for make in CORRUPTIONS.values():
        kernel = make().on((4, 4))
        steps = matrices(kernel, [b / a for a, b in zip((1.0, *ALPHAS), ALPHAS)])
        z = torch.arange(kernel.states)[:, None].expand(-1, 2)
        rates = kernel.rates(z, torch.float64)[:, 0].T
        generator, product = rates - rates.sum(1).diag(), torch.eye(kernel.states, dtype=torch.float64)
        for step, alpha, closed in zip(steps, ALPHAS, matrices(kernel, ALPHAS)):
            product = product @ step
            worst = max(worst, (product - closed).abs().max().item())
            if alpha > 0:
                worst = max(worst, (torch.matrix_exp(-math.log(alpha) * generator) - closed).abs().max().item())
    return worst


@identity("R75", title="uniform and neighbouring corruption end in, and keep, the uniform law", tolerance=1e-13)
def corruption_ends_uniform() -> float:
    worst = 0.0
    for name in ("uniform", "discretised_gaussian"):
        q = matrices(CORRUPTIONS[name]().on((5,)), [0.3, 0.0])
        worst = max(worst, (q[1] - 0.2).abs().max().item(), (q[0].sum(0) - 1).abs().max().item())
    return worst


@identity("R76", title="absorbing corruption ends in [MASK] for certain", tolerance=1e-15)
def corruption_ends_masked() -> float:
    kernel = CORRUPTIONS["absorbing"]().on((5,))
    return (matrices(kernel, [0.0])[0] - torch.eye(6, dtype=torch.float64)[5]).abs().max().item()


def laws(kernel: Corruption, log_g: Tensor, z: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """p(z_s|z_t) over whole rows, (from, to), both in the order of z (states^D, D)."""
    p = kernel.bridge(log_g, z, s.expand(len(z)), t.expand(len(z))).exp()
    return p[:, torch.arange(z.shape[1]), z].prod(2)


def by_all_paths(model: DiscreteDiffusion, xs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x) and the bound on it of T levels by sums over every path, (len(xs),) each, and the mass of all rows of data."""
    kernel, guess, t = model.kernel, model.guess(), torch.arange(model.depth + 1) / model.depth
    z, alphas, cells = every(xs.shape[1], kernel.states), model.survival(t.double()), torch.arange(xs.shape[1])
    p = kernel.log_pi.exp()[cells, z].prod(1)
    here = [log_one_hot(x.expand(len(z), -1), kernel.states, torch.float64) for x in xs]
    q = torch.stack([kernel(h[:1], alphas[-1:]).exp()[0, cells, z].prod(1) for h in here])
    bound = torch.special.xlogy(q, p) - torch.special.xlogy(q, q)
    bound = torch.where(q > 0, bound, 0).sum(1)
    for k in range(model.depth, 0, -1):
        ends = alphas[k - 1], alphas[k]
        ahead = laws(kernel, guess(z, alphas[k].expand(len(z))), z, *ends)
        for i, h in enumerate(here):
            back = laws(kernel, h, z, *ends)
            ratio = torch.special.xlogy(back, ahead) - torch.special.xlogy(back, back)
            bound[i] += q[i] @ torch.where(back > 0, ratio, 0).sum(1)
            q[i] = q[i] @ back
        p = p @ ahead
    at = (z == xs[:, None]).all(2).int().argmax(1)
    data = (z < model.space.symbols).all(1)
    return p[at].log(), bound, p[data].sum()


@identity("R75", "R76", "I29", title="c = 3, d = 3, T = 5: log p(x) over all paths ≥ the bound; its excess", tolerance=1e-12)
def enumerated_log_p_is_above_the_bound() -> float:
    worst, xs = -math.inf, every(3, 3)[::4]
    for corruption in CORRUPTIONS:
        log_p, bound, mass = by_all_paths(guessing(3, 3, corruption, steps=5), xs)
        worst = max(worst, (bound - log_p).max().item(), abs(mass.item() - 1))
    return worst


@identity("R75", "R76", title="walked through its T levels the chain's bound is that over all paths, in s.e.", tolerance=4)
def walked_bound_is_that_over_all_paths() -> float:
    worst, xs = 0.0, every(2, 3)
    for corruption in CORRUPTIONS:
        model = guessing(2, 3, corruption, steps=3)
        _, bound, _ = by_all_paths(model, xs)
        with torch.no_grad():
            found = model.elbo(xs.repeat(1000, 1)).value.view(1000, -1)
        errors = found.std(0) / 1000**0.5
        worst = max(worst, ((found.mean(0) - bound).sum().abs() / errors.square().sum().sqrt()).item())
    return worst


def masked_by_number(model: DiscreteDiffusion, xs: Tensor) -> Tensor:
    """The continuous-time bound with [MASK], (B,): t is integrated out, which leaves every mask of n cells a weight 1/n."""
    cells, total = xs.shape[1], torch.zeros(len(xs), dtype=torch.float64)
    for mask in every(cells, 2).bool()[1:]:
        z, n = torch.where(mask, model.kernel.states - 1, xs), int(mask.sum())
        log_g = model.guess()(z, torch.full((len(xs),), 0.5, dtype=torch.float64))
        known = log_g.gather(2, xs[..., None])[..., 0]
        total += torch.where(mask, known, 0).sum(1) / (n * math.comb(cells, n))
    return total


def over_all_orders(model: DiscreteDiffusion, xs: Tensor) -> Tensor:
    """The mean of the chain rule's log p(x) over all orders, (B,)."""
    free = torch.ones_like(xs, dtype=torch.bool)
    orders = itertools.permutations(range(xs.shape[1]))
    return torch.stack([chain_rule(model.guess(), xs, free, model.kernel.states - 1, o) for o in orders]).mean(0)


@identity("R76", "I30", title="masked bound, T = ∞: any-order AR log p for arbitrary guesses, d = 4, c = 3", tolerance=1e-10)
def masked_bound_is_any_order() -> float:
    model, xs = guessing(4, 3), every(4, 3)
    return (masked_by_number(model, xs) - over_all_orders(model, xs)).abs().max().item()


@identity("R76", "I30", title="the loss averages to the any-order AR log p, at any schedule, in s.e.", tolerance=4)
def loss_is_any_order_on_average() -> float:
    worst, xs = 0.0, every(3, 3)
    for schedule in ("log_linear", "cosine"):
        model = guessing(3, 3, schedule=schedule)
        loss = torch.stack([model.loss(xs).sum() for _ in range(200)])
        worst = max(worst, ((loss.mean() + over_all_orders(model, xs).sum()).abs() / loss.std() * 200**0.5).item())
    return worst


@identity("R77", "I30", title="ordered masks: the walked bound is the AR log p of the same guesses", tolerance=1e-10)
def ordered_masks_are_autoregressive() -> float:
    model, xs = guessing(4, 3, schedule="ordered"), every(4, 3)
    truth = torch.zeros(len(xs), dtype=torch.float64)
    for i in range(4):
        seen = torch.where(torch.arange(4) < i, xs, 3)
        truth += model.net(seen, truth)[:, i].log_softmax(1).gather(1, xs[:, i, None])[:, 0]
    with torch.no_grad():
        walked, told = model.elbo(xs).value, model.log_likelihood(xs).value
    return max((walked - truth).abs().max().item(), (told - truth).abs().max().item())


@identity("R77", title="drawn one by one, in any order or by confidence, all rows have mass 1", tolerance=1e-12)
def chain_rules_sum_to_one() -> float:
    model, xs, worst = guessing(4, 3), every(4, 3), 0.0
    for order in ("left_to_right", "confidence", (2, 0, 3, 1)):
        log_p = model.log_likelihood(xs, method="chain_rule", order=order).value
        worst = max(worst, abs(log_p.exp().sum().item() - 1))
    return worst


@identity("R76", title="no draw of any sampler shows [MASK]: how many do", tolerance=0)
def masks_are_never_drawn() -> float:
    model, shown = guessing(5, 3), 0
    reverse, mask = Reverse(model.kernel, model.survival, model.guess()), torch.full((64, 5), model.kernel.states - 1)
    for name, steps in itertools.product(SAMPLERS, (2, 9)):
        (z,) = deque(SAMPLERS[name]().run(reverse, mask, mask > 0, Streams(0, range(64)), steps), 1)
        shown += int((z > 2).sum())
    return float(shown)

"""Autoregressive models: the product rule makes log p(x) exact, in any order and whatever the network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from likeli.models.autoregressive import NETWORKS, Autoregressive, CausalBackbone, last
from likeli.random import seeded
from likeli.spaces import Binary, Column, Pixels, Space, Table
from likeli.theory.check import identity

HIDDEN: dict[Literal["made", "conv", "rows", "transformer"], tuple[int, ...]] = {
    "made": (24, 24), "transformer": (16, 16), "conv": (8, 8), "rows": (8, 8)
}


def _models(space: Space, orders: tuple[Literal["natural", "any"], ...] = ("natural", "any")) -> Iterator[Autoregressive]:
    """Every network in every order that it follows, in double precision, with weights far from their start."""
    for network, hidden in HIDDEN.items():
        for order in orders if NETWORKS[network].any_order else orders[:-1]:
            with seeded(0, network, order), torch.no_grad():
                backbone, ensemble = CausalBackbone(network, hidden), 3 if order == "any" else 1
                model = Autoregressive(space, backbone, order, ensemble).double().eval()
                for p in model.parameters():
                    p.add_(torch.randn_like(p), alpha=0.3)
            yield model


@identity("R104", title="Σ p(x) over all 2¹² binary images = 1, for each network", tolerance=1e-6)
def masses_sum_to_one() -> float:
    x = torch.cartesian_prod(*[torch.arange(2)] * 12).reshape(-1, 3, 4)
    return max(abs(m.log_likelihood(x).value.exp().sum().item() - 1) for m in _models(Binary((3, 4))))


@identity("R104", title="cells whose change moves a cell's numbers = the cells before it: how many are wrong", tolerance=0)
def only_earlier_cells_are_read() -> float:
    """Each cell is changed to each other value; an order that is not row-major where the network follows it."""
    space, wrong, x = Pixels((2, 3), 3), 0, torch.tensor([[0, 2, 1, 1, 0, 2]])
    for model in _models(space):
        order = model.orders[-1]
        rank, c = order.argsort(), torch.zeros(len(x), 0, dtype=torch.float64)
        moved = torch.zeros(6, 6, dtype=torch.bool)
        with torch.no_grad():
            before = model.net(x, c, order)
            for k in range(6):
                for by in (1, 2):
                    other = x.clone()
                    other[0, k] = (other[0, k] + by) % 3
                    moved[:, k] |= (model.net(other, c, order) != before)[0].any(0)
        wrong += int((moved != (rank < rank[:, None])).sum())
    return wrong


@identity("R104", title="numbers cell by cell, from what is kept of earlier ones = those of one pass", tolerance=1e-10)
def kept_is_computed() -> float:
    x, worst = torch.tensor([[0, 2, 1, 1, 0, 2], [1, 1, 2, 0, 0, 1]]), 0.0
    rows, c = torch.arange(2), torch.zeros(2, 0, dtype=torch.float64)
    for model in _models(Pixels((2, 3), 3)):
        filled, order = torch.zeros_like(x), model.orders[-1]
        with torch.no_grad():
            whole = model.net(x, c, order)
            for cell, out in zip(order.tolist(), model.net.unroll(filled, c, order)):
                worst = max(worst, (out - whole[rows, :, cell]).abs().max().item())
                filled[:, cell] = x[:, cell]
    return worst


@identity("R104", title="log p of a row with a hole = log Σ over what could stand in it", tolerance=1e-9)
def holes_are_summed_out() -> float:
    """Along orders in which the hole comes last; the equal mixture of three orders."""
    space = Table(tuple(Column(n, "categorical", categories=tuple("abcd"[:k])) for n, k in (("p", 2), ("q", 3), ("r", 4))))
    every, worst = torch.cartesian_prod(*[torch.arange(k) for k in (2, 3, 4)]).double(), 0.0
    for model in _models(space, ("any",)):
        for hole in range(3):
            x = every.clone()
            x[:, hole] = math.nan
            with torch.no_grad():
                along = [model.log_prob(every, None, last(o.expand(len(x), -1), x.isnan())) for o in model.orders]
            joint = torch.stack(along).logsumexp(0) - math.log(len(along))
            same = (every[:, None] == every).index_fill(2, torch.tensor(hole), True).all(2)
            summed = joint.expand(len(x), -1).masked_fill(~same, -math.inf).logsumexp(1)
            worst = max(worst, (model.log_likelihood(x).value - summed).abs().max().item())
    return worst


@identity("R104", title="Σ_i −log p(x_i | before), as a coder asks for it = −log p(x), nats", tolerance=1e-9)
def codes_pay_log_p() -> float:
    space, worst = Pixels((2, 3), 3), 0.0
    x = torch.tensor([[0, 2, 1, 1, 0, 2], [1, 1, 2, 0, 0, 1]]).reshape(-1, 2, 3)
    for model in _models(space):
        paid = torch.zeros(len(x), dtype=torch.float64)
        for i, symbol in enumerate(x.flatten(1).T):
            paid -= _next(model, x, i).gather(1, symbol[:, None])[:, 0]
        with torch.no_grad():
            worst = max(worst, (paid + model.log_prob(x, None, model.orders[0])).abs().max().item())
    return worst


def _next(model: Autoregressive, x: Tensor, i: int) -> Tensor:
    """log P of symbol i, with the cells from i on replaced by others."""
    other = x.flatten(1).clone()
    other[:, i:] = 2 - other[:, i:]
    with torch.no_grad():
        return model.next_log_pmf(other.reshape(x.shape), i)

"""Negative rows for contrastive divergence, and the buffer that holds them from step to step and through a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from likeli import processes
from likeli.contract import evaluating
from likeli.energy.unnormalised import EnergyBased
from likeli.random import Ambient


class ReplayBuffer:
    """States of chains, some of which are moved at each step.

    Arguments:
        model: whose chains they are; its `contrast` says how many and how far.
        rows: of one step.
    """

    def __init__(self, model: EnergyBased, rows: int) -> None:
        self.model, self.contrast = model, model.contrast
        self.rows = min(rows, self.contrast.buffer) or rows
        self.kept = torch.empty(0, *model.space.shape, dtype=model.dtype, device=model.device)

    @torch.no_grad()
    def negatives(self, u: Tensor, rows_of_batch: Callable[[int | None], AbstractContextManager[Any]]) -> Tensor:
        """States after `moves` moves: of a batch u, or of drawn places of the buffer, some of which begin anew at the base.

        Arguments:
            u: (rows, *shape), this process's.
            rows_of_batch: see `training/run.py`; places are shared among processes, and all of them keep the whole buffer.
        """
        model, of = self.model, self.contrast
        with evaluating(model):
            if of.buffer and not len(self.kept):
                self.kept = model.base(Ambient(u, of.buffer)).to(u)
            place = torch.randperm(len(self.kept), device=u.device)[: self.rows] if of.buffer else None
            v = u if place is None else self.kept[place[processes.share(len(place))]]
            with rows_of_batch(None if place is None else len(place)):
                if of.restart:
                    anew = torch.rand(len(v), device=u.device) < of.restart
                    v = torch.where(anew.reshape(-1, *[1] * (v.ndim - 1)), model.base(Ambient(v)).to(v), v)
                noise = Ambient(v)
                for _ in range(of.moves):
                    v = model.move(v, 1.0, noise)
            if place is not None:
                self.kept[place] = torch.cat([moved["v"] for _, moved in processes.exchanged(None, {"v": v})]).to(v)
        return v

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"states": self.kept}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.kept = tensors["states"].to(self.kept, copy=True)

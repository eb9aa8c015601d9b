"""Weights, gradients and Adam's moments split over processes by torch's FSDP2, and put together again.

Each parameter is cut along its first axis, a part for each process.  While a loss and its gradient are worked out all parts are
there, gathered before and scattered after; in between, each process holds, averages and steps its own.

Source: Rajbhandari et al. (2020), arXiv:1910.02054, stage 3; Zhao et al. (2023), arXiv:2304.11277.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from likeli import processes
from likeli.contract import GenerativeModel
from likeli.energy.unnormalised import EnergyBased
from likeli.errors import require


class ShardedLoss(nn.Module):
    """A model's loss as what FSDP2 gathers weights for: x (B, *shape) and y → (B,)."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        return self.model.loss(x, y)


def require_shardable(model: GenerativeModel) -> None:
    """Refuse a model that cannot be split.

    Raises:
        InputError: it is not trained by plain descent of its loss, or a parameter has no axis to be cut along.
    """
    plain = model.strategy == "sgd" and not isinstance(model, EnergyBased)
    told = "a family trained by gradient descent on its loss, such as vae, flow or a diffusion, to be split over processes"
    require(plain, "train.shard", told, f"{model.kind()}, trained by {model.strategy} of its own")
    flat = [name for name, p in model.named_parameters() if p.ndim == 0]
    require(not flat, "train.shard", "parameters with an axis to be cut along", f"{', '.join(flat[:5])} without")


def split_over_processes(model: GenerativeModel, device: torch.device) -> tuple[GenerativeModel, ShardedLoss]:
    """(a copy of the model on the device, of whose parameters each process holds a part; its loss).

    Parts have names of their own in no registry: the copy is of the model's class, and its loss alone is FSDP2's.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mine = copy.deepcopy(model).to(device)
    loss = ShardedLoss(mine)
    fully_shard(loss, mesh=init_device_mesh(device.type, (processes.count(),)), reshard_after_forward=True)
    return mine, loss


def part_of(tensor: Tensor) -> Tensor:
    """The part that this process holds, sharing its memory; a tensor that is not split, as it is."""
    split: Any = tensor
    return split.detach().to_local() if hasattr(tensor, "to_local") else tensor


def cut_like(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that is to be split as `like` is."""
    if not hasattr(like, "to_local"):
        return whole
    parts, rank = whole.chunk(processes.count()), processes.rank()
    return parts[rank] if rank < len(parts) else whole[:0]


def put_together(part: Tensor, like: Tensor, everywhere: bool = False) -> Tensor:
    """The whole tensor of which each process has a part, split as `like` is; all of them have to ask.

    Arguments:
        everywhere: whether every process gets it; else the first, and the others nothing that they could use.
    """
    if not hasattr(like, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    split: Any = like
    shape = {"shape": split.shape, "stride": split.stride()}
    whole: Tensor = DTensor.from_local(part, split.device_mesh, split.placements, run_check=False, **shape).full_tensor()
    return whole if everywhere or processes.is_first() else whole.new_empty(0)

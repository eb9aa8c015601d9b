"""Gradient descent on one device, or on one of each process that shares a batch."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim.adamw import adamw

from likeli import processes
from likeli.contract import GenerativeModel
from likeli.errors import require
from likeli.random import seeded
from likeli.training.settings import TrainSettings
from likeli.training.sharding import cut_like, part_of, put_together


def pick_device(name: str, model: GenerativeModel) -> torch.device:
    """`auto` is cuda where there is one, and where the model is otherwise.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    found = torch.cuda.is_available()
    require(name != "cuda" or found, "train.device", "a device of this machine", name)
    if name == "auto" and not found:
        return model.device
    mine = int(os.environ.get("LOCAL_RANK", 0)) if processes.count() > 1 else 0
    return torch.device(name) if name == "cpu" else torch.device("cuda", mine % torch.cuda.device_count())


def training_loss(of: Callable[..., Tensor], x: Tensor, y: Tensor | None, settings: TrainSettings) -> Tensor:
    """A model's loss at the settings' precision, (B,), at least in float32."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
        loss = of(x, y)
    return loss.float() if loss.dtype in (torch.bfloat16, torch.float16) else loss


def batch_mean(losses: Tensor) -> Tensor:
    """Σ_b ℓ_b / B over the whole batch, whichever processes its rows are in and however many each has.

    Averaged over processes, as DistributedDataParallel does, the gradients of what each of them gets here are the mean's: they
    are those of P Σ_mine ℓ_b / B, and the value is the mean itself.
    """
    if processes.count() == 1:
        return losses.mean()
    summed, rows = processes.total(losses.sum(), torch.tensor(len(losses), device=losses.device))
    mine = losses.sum() * (processes.count() / rows.item())
    mine.data.copy_(summed / rows)
    return mine


def speed_of_bf16(model: GenerativeModel, x: Tensor, y: Tensor | None, settings: TrainSettings) -> float:
    """How many times as fast a loss and its gradient are in bfloat16 as in float32, here and on this batch.

    The least of three of each in turn, on a copy of the model and with random numbers of its own: training is not touched.
    """
    trial, seconds = copy.deepcopy(model).train(), {"32": math.inf, "bf16-mixed": math.inf}
    with seeded(0, "precision"):
        for turn in range(4):  # the first of each sets things up
            for precision in seconds:
                start = time.perf_counter()
                training_loss(trial.loss, x, y, replace(settings, precision=precision)).mean().backward()
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
                if turn:
                    seconds[precision] = min(seconds[precision], time.perf_counter() - start)
    return seconds["32"] / seconds["bf16-mixed"]


class Passing(nn.Module):
    """The identity of a loss, which has DistributedDataParallel average the gradients of these parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterList(parameters)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


SQUARE = 64  # features on either side of a layer whose steps are worth the products that make them orthogonal


def orthogonal(m: Tensor) -> Tensor:
    """U Vᵀ of M = U S Vᵀ, about: five steps X ← a X + (b A + c A²) X, A = X Xᵀ, bring singular values
    above 1/380 of the norm to between 0.68 and 1.21.

    Source: Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks, with its a, b and c.
    """
    wide = m.shape[0] <= m.shape[1]
    x = (m if wide else m.mT) / (m.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if wide else x.mT


class Descent:
    """AdamW with the gradient's norm measured, and clipped if the settings say so, at each step.

    With the optimiser `muon` the weights W of linear layers with `SQUARE` or more features on either side take another step, of
    momentum M ← β M + (1 − β) G, made orthogonal:

        W ← W − 10 η √max(1, rows/columns) orthogonal((1 − β) G + β M),    β = 0.95

    Where processes share a batch, the gradient is the mean of theirs, so that they take the same step; see `batch_mean`.  Of
    parameters that are split over them each steps its own part.

    Arguments:
        parameters: those of them that can be trained are.
        settings: the optimiser's options, clipping.
        model: whose layers they are of.

    Raises:
        InputError: none of them can be trained; `muon` for a model without such layers, or for weights that are split.

    Source: Kingma & Ba (2014), arXiv:1412.6980; Loshchilov & Hutter (2017), arXiv:1711.05101; Jordan et al. (2024), Muon.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: TrainSettings, model: nn.Module) -> None:
        self.parameters, self.settings = [p for p in parameters if p.requires_grad], settings
        require(len(self.parameters) > 0, "model", "parameters to train", "none")
        self.decays = [settings.weight_decay if p.ndim > 1 else 0.0 for p in self.parameters]
        self.moments: dict[int, dict[str, Tensor]] = {}
        # the parameters that a loss has used are looked for at each step: no order of sums depends on the steps before a resume
        self.split = any(hasattr(p, "to_local") for p in self.parameters)
        wide = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and min(m.weight.shape) >= SQUARE]
        muon, theirs = settings.optimiser == "muon", {id(w) for w in wide}
        self.turned = {i for i, p in enumerate(self.parameters) if muon and id(p) in theirs}
        have = f"adam, since no linear layer has {SQUARE} features on either side"
        require(not muon or len(self.turned) > 0, "train.optimiser", have, "muon")
        require(not (muon and self.split), "train.optimiser", "adam beside shard, since muon needs whole matrices", "muon")
        alone, held = processes.count() == 1 or self.split, Passing(self.parameters)
        self.shared = None if alone else DistributedDataParallel(held, find_unused_parameters=True)

    def step(self, loss: Tensor, lr: float, limit: float = math.inf) -> float:
        """A step down `loss` at rate lr, unless the gradient's norm, which is returned, is not finite or above `limit`."""
        for p in self.parameters:
            p.grad = None
        (loss if self.shared is None else self.shared(loss)).backward()
        grads = [part_of(p.grad) for p in self.parameters if p.grad is not None]
        total = get_total_norm(grads)
        if self.split:
            total = processes.total(total.double().square())[0].sqrt().to(total.dtype)
        norm = total.item()
        if norm - norm != 0 or norm > limit:  # inf, NaN or too large
            return norm
        if self.settings.clip is not None and norm > self.settings.clip:
            torch._foreach_mul_(grads, (self.settings.clip / (total + 1e-6)).clamp(max=1.0))
        moved = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        for i in self.turned.intersection(moved):
            self._turn(i, lr)
        rest = [i for i in moved if i not in self.turned]
        for decay in sorted({self.decays[i] for i in rest}):
            self._update([i for i in rest if self.decays[i] == decay], lr, decay)
        return norm

    @torch.no_grad()
    def _turn(self, i: int, lr: float) -> None:
        w = self.parameters[i]
        assert w.grad is not None
        momentum = self.moments.setdefault(i, {"exp_avg": torch.zeros_like(w)})["exp_avg"].lerp_(w.grad, 0.05)
        way = orthogonal(torch.lerp(w.grad, momentum, 0.95))
        w.mul_(1 - lr * self.decays[i]).add_(way, alpha=-10 * lr * max(1.0, w.shape[0] / w.shape[1]) ** 0.5)

    @torch.no_grad()
    def _update(self, index: list[int], lr: float, decay: float) -> None:
        """One fused call for the parameters of one decay; the optimiser's class would import a compiler, two seconds of CPU."""
        mine = [part_of(self.parameters[i]) for i in index]
        for i, p in zip(index, mine):
            if i not in self.moments:
                step = torch.zeros((), dtype=torch.float32, device=p.device)
                self.moments[i] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        first, second, steps = ([self.moments[i][k] for i in index] for k in ("exp_avg", "exp_avg_sq", "step"))
        beta1, beta2 = self.settings.betas
        plain = {"amsgrad": False, "maximize": False, "fused": True}
        options = {"beta1": beta1, "beta2": beta2, "lr": lr, "weight_decay": decay, "eps": 1e-8} | plain
        grads = [part_of(p.grad) for p in (self.parameters[i] for i in index) if p.grad is not None]
        adamw(mine, grads, first, second, [], steps, **options)

    def tensors(self) -> dict[str, Tensor]:
        """Adam's state, what a checkpoint holds."""
        state = ((i, k, v) for i, moments in sorted(self.moments.items()) for k, v in moments.items())
        return {f"{i}.{k}": put_together(v, self.parameters[i]) if v.ndim else v for i, k, v in state}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, value in tensors.items():
            i, _, key = name.partition(".")
            p = self.parameters[int(i)]
            mine = cut_like(value, p) if value.ndim else value
            self.moments.setdefault(int(i), {})[key] = mine.to(p.device, copy=True)

"""Gradient descent on one device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from likeli.contract import GenerativeModel
from likeli.errors import require
from likeli.training.settings import TrainSettings


def pick_device(name: str, model: GenerativeModel) -> torch.device:
    """`auto` is cuda where there is one, and where the model is otherwise.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    found = torch.cuda.is_available()
    require(name != "cuda" or found, "train.device", "a device of this machine", name)
    if name == "auto":
        return torch.device("cuda", 0) if found else model.device
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


def training_loss(model: GenerativeModel, x: Tensor, y: Tensor | None, settings: TrainSettings) -> Tensor:
    """The model's loss at the settings' precision, (B,), at least in float32."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
        loss = model.loss(x, y)
    return loss.float() if loss.dtype in (torch.bfloat16, torch.float16) else loss


class Descent:
    """AdamW with the gradient's norm measured, and clipped if the settings say so, at each step.

    Arguments:
        parameters: those of them that can be trained are.
        settings: Adam's options, clipping.

    Raises:
        InputError: none of them can be trained.

    Source: Kingma & Ba (2014), arXiv:1412.6980; Loshchilov & Hutter (2017), arXiv:1711.05101.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: TrainSettings) -> None:
        self.parameters, self.clip = [p for p in parameters if p.requires_grad], settings.clip
        require(len(self.parameters) > 0, "model", "parameters to train", "none")
        decayed = [p for p in self.parameters if p.ndim > 1 and settings.weight_decay]
        others = [p for p in self.parameters if p.ndim < 2 or not settings.weight_decay]  # one fused call if nothing decays
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=True)

    def step(self, loss: Tensor, lr: float, limit: float = math.inf) -> float:
        """A step down `loss` at rate lr, unless the gradient's norm, which is returned, is not finite or above `limit`."""
        self.adam.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        total = get_total_norm(gradients)
        norm = total.item()
        if norm - norm != 0 or norm > limit:  # inf, NaN or too large
            return norm
        if self.clip is not None and norm > self.clip:
            clip_grads_with_norm_(self.parameters, self.clip, total)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Adam's state, what a checkpoint holds."""
        state = self.adam.state
        return {f"{i}.{k}": v for i, p in enumerate(self.parameters) for k, v in state.get(p, {}).items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for i, p in enumerate(self.parameters):
            own = {k.removeprefix(f"{i}."): v.clone() for k, v in tensors.items() if k.startswith(f"{i}.")}
            if own:
                self.adam.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in own.items()}

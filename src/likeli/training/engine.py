"""Gradient descent on one device: the only place that knows lightning-fabric."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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


class Engine:
    """A model set up for training.

    Arguments:
        model: trained in place.
        settings: device, precision, Adam's options, clipping.
    """

    def __init__(self, model: GenerativeModel, settings: TrainSettings) -> None:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment

        self.settings, self.device = settings, pick_device(settings.device, model)
        if self.device.type == "cpu":
            keep_freed_memory()
        # Fabric's own mixed precision rounds the data to bfloat16 before the model sees them; `autocast` does not.
        self.fabric = Fabric(accelerator=self.device.type, devices=1, precision="32-true", plugins=[LightningEnvironment()])
        self.model = self.fabric.setup_module(model)
        self.model.mark_forward_method("loss")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that a loss is computed in."""
        if self.settings.precision == "bf16-mixed":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The model's loss, (B,), at least in float32."""
        with self.autocast():
            loss = self.model.loss(x, y)
        return loss.float() if loss.dtype in (torch.bfloat16, torch.float16) else loss

    def descent(self, parameters: Iterable[nn.Parameter]) -> Descent:
        """Adam on `parameters`.

        Raises:
            InputError: none of them can be trained.
        """
        return Descent(self, [p for p in parameters if p.requires_grad])


class Descent:
    """AdamW with the gradient's norm measured, and clipped if the settings say so, at each step.

    Source: Kingma & Ba (2014), arXiv:1412.6980; Loshchilov & Hutter (2017), arXiv:1711.05101.
    """

    def __init__(self, engine: Engine, parameters: list[nn.Parameter]) -> None:
        require(len(parameters) > 0, "model", "parameters to train", "none")
        settings = engine.settings
        decayed = [p for p in parameters if p.ndim > 1 and settings.weight_decay]
        others = [p for p in parameters if p.ndim < 2 or not settings.weight_decay]  # one fused call if nothing decays
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.engine, self.parameters, self.clip = engine, parameters, settings.clip
        self.adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=True)
        self._fabric_adam = engine.fabric.setup_optimizers(self.adam)

    def step(self, loss: Tensor, lr: float, limit: float = math.inf) -> float:
        """A step down `loss` at rate lr, unless the gradient's norm, which is returned, is not finite or above `limit`."""
        self.adam.zero_grad()
        self.engine.fabric.backward(loss)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        total = get_total_norm(gradients)
        norm = total.item()
        if norm - norm != 0 or norm > limit:  # inf, NaN or too large
            return norm
        if self.clip is not None and norm > self.clip:
            clip_grads_with_norm_(self.parameters, self.clip, total)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self._fabric_adam.step()
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


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next step; returns whether this system's library could be told so.

    It gives large tensors back to the kernel otherwise and gets them back as zeroed pages, tens of thousands a step: 5 % of a
    U-Net's step in float32 and 10 % in bfloat16.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_TOP_PAD, 2**26)])

"""Anything array-like, as a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.errors import InputError


def as_tensor(x: Any, what: str = "x") -> Tensor:
    """x as a detached tensor of a number type; the dtype is kept where torch has it.

    Raises:
        InputError: not numbers.
    """
    if isinstance(x, Tensor):
        tensor = x.detach()
    else:
        array = np.asarray(x)
        if array.dtype.kind not in "biuf":
            raise InputError(f"{what}: expected numbers, got an array of {array.dtype}")
        tensor = torch.from_numpy(np.array(array, copy=True))
    if tensor.is_complex():
        raise InputError(f"{what}: expected real numbers, got complex ones")
    return tensor

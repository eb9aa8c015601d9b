"""Attention in the form that is fastest where it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

HEAD = 64  # features of a head: kernels on a CPU spend as long on a head of 8


def heads_of(width: int) -> int:
    """How many heads of at least 64 features divide the width; one if it is smaller."""
    return next(heads for heads in range(max(1, width // HEAD), 0, -1) if width % heads == 0)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ/√d) v.

    torch's fused CPU kernel takes three times as long as plain products in bfloat16, and longer in float32 for few tokens.

    Arguments:
        qkv: (B, tokens, 3·width).
        heads: a divisor of the width.
    """
    b, n, width = qkv.shape
    q, k, v = qkv.reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    if qkv.device.type == "cpu" and (n <= 64 or qkv.dtype == torch.bfloat16):
        out = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).to(v.dtype) @ v
    else:
        out = scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(b, n, width // 3)

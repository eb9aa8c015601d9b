"""A diffusion transformer: an image as a row of patches, every layer steered by the noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, pad, scaled_dot_product_attention

from likeli.nn.embedding import Caption, Conditioner, NoiseLevel
from likeli.nn.mlp import ByteDropout
from likeli.spaces import Space


class Block(nn.Module):
    """h + g₁ attention((1 + a₁) norm h + b₁), then the same with two linear layers; a, b, g come from the noise level.

    Arguments:
        width: features of a token.
        dropout: probability of zeroing a hidden feature in training.
        steered: whether a, b, g come from the noise level; else they are numbers of the block's own.

    Source: Peebles & Xie (2022), arXiv:2212.09748, adaLN-Zero.
    """

    def __init__(self, width: int, dropout: float, steered: bool = True) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.steer = nn.Linear(width, 6 * width) if steered else None
        self.own = None if steered else nn.Parameter(torch.tensor([0.0, 0, 1, 0, 0, 1]).repeat_interleave(width))
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.last = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = ByteDropout(dropout)
        if self.steer is not None:
            nn.init.zeros_(self.steer.weight)
            nn.init.zeros_(self.steer.bias)

    def forward(self, h: Tensor, e: Tensor | None, turn: Tensor | None = None) -> Tensor:
        steer = self.own if self.steer is None else self.steer(e)[:, None]
        a_1, b_1, g_1, a_2, b_2, g_2 = steer.chunk(6, -1)
        qkv = self.enter(torch.addcmul(b_1, layer_norm(h, h.shape[-1:]), 1 + a_1))
        h = h + g_1 * self.leave(attend(qkv, self.heads, turn))
        inner = gelu(self.first(torch.addcmul(b_2, layer_norm(h, h.shape[-1:]), 1 + a_2)), approximate="tanh")
        return h + g_2 * self.last(self.dropout(inner))


class CrossAttention(nn.Module):
    """h + W softmax(q kᵀ/√d) v: a token asks, the words of a caption answer, and beside them one that is always there.

    Arguments:
        width: features of a token.
        given: features of a word.

    Source: Rombach et al. (2021), arXiv:2112.10752, section 3.3.
    """

    def __init__(self, width: int, given: int) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.ask, self.enter, self.leave = nn.Linear(width, width), nn.Linear(given, 2 * width), nn.Linear(width, width)
        self.nothing = nn.Parameter(0.3 * torch.randn(1, 1, given))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, h: Tensor, words: Caption) -> Tensor:
        b, n, width = h.shape
        given = torch.cat([words.features, self.nothing.expand(b, -1, -1)], 1)
        there = nn.functional.pad(words.seen, (0, 1), value=True)[:, None, None]
        q = self.ask(layer_norm(h, h.shape[-1:])).reshape(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.enter(given).reshape(b, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        shares = (q * q.shape[-1] ** -0.5 @ k.mT).masked_fill(~there, -math.inf).softmax(-1)
        return h + self.leave((shares.to(v.dtype) @ v).transpose(1, 2).reshape(b, n, width))


class Transformer(nn.Module):
    """(z (B, [C,] H, W), γ (B,), y) → (B, outputs, [C,] H, W), or z's shape for one output; a caption is heard word by word.

    Arguments:
        shape: one image, (H, W) or (C, H, W); padded inside to whole patches.
        hidden: width of each block, all equal.
        outputs: numbers for each cell.
        condition: what y is, or None.
        dropout: probability of zeroing a hidden feature in training.
        patch: side of a patch; chosen for at most 64 tokens if not given.
        rotary: whether attention sees how far apart two patches are, along rows and columns.  With learned places alone it
            takes several times the steps until neighbouring patches agree.
    """

    turn: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: tuple[int, ...] = (128, 128, 128, 128),
        outputs: int = 1,
        condition: Space | Conditioner | None = None,
        dropout: float = 0.0,
        patch: int | None = None,
        rotary: bool = True,
    ) -> None:
        super().__init__()
        self.shape, self.outputs, width = shape, outputs, hidden[0]
        self.colours = shape[0] if len(shape) == 3 else 1
        self.patch = patch or max(2, math.ceil(max(shape[-2:]) / 8))
        self.rows, self.columns = (math.ceil(s / self.patch) for s in shape[-2:])
        cells = self.colours * self.patch**2
        self.level = NoiseLevel(width, condition)
        self.enter, features = nn.Linear(cells, width), width // heads_of(width)
        self.rotary = rotary
        self.register_buffer("turn", None, persistent=False)
        if rotary:
            angles = grid_angles(self.rows, self.columns, width // 4)
            self.places = nn.Parameter(pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 4)))
            angles = grid_angles(self.rows, self.columns, features // 4)
            self.turn = torch.stack([angles.cos(), angles.sin()]) if features >= 4 else None
        else:
            self.place = nn.Parameter(0.02 * torch.randn(self.rows * self.columns, width))
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in hidden)
        words = self.level.condition.words
        self.across = nn.ModuleList(CrossAttention(width, words.width) for _ in hidden if words is not None)
        self.steer, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, cells * outputs)
        for layer in (self.steer, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        (height, width), p = self.shape[-2:], self.patch
        said = self.level.condition.read(y, z)
        e, image = self.level(gamma, said), z.reshape(len(z), self.colours, height, width)
        image = pad(image, (0, self.columns * p - width, 0, self.rows * p - height))
        patches = image.reshape(len(z), self.colours, self.rows, p, self.columns, p).permute(0, 2, 4, 1, 3, 5)
        h = self.enter(patches.reshape(len(z), self.rows * self.columns, -1))
        h = h + (self.places if self.rotary else self.place)
        for i, block in enumerate(self.blocks):
            h = block(h, e, self.turn)
            if isinstance(said, Caption):
                h = self.across[i](h, said)
        scale, shift = self.steer(e)[:, None].chunk(2, -1)
        h = self.leave(torch.addcmul(shift, layer_norm(h, h.shape[-1:]), 1 + scale))
        h = h.reshape(len(z), self.rows, self.columns, self.outputs * self.colours, p, p).permute(0, 3, 1, 4, 2, 5)
        h = h.reshape(len(z), -1, self.rows * p, self.columns * p)[:, :, :height, :width]
        return h.reshape(len(z), *([self.outputs] if self.outputs > 1 else []), *self.shape)


HEAD = 64  # features of a head: kernels on a CPU spend as long on a head of 8


def heads_of(width: int) -> int:
    """How many heads of at least 64 features divide the width; one if it is smaller."""
    return next(heads for heads in range(max(1, width // HEAD), 0, -1) if width % heads == 0)


def turns(places: int, features: int) -> Tensor:
    """e^{i t ω_k}, (2, places, features/2) cosines and sines, ω_k from 1 down to 1/10,000: the places of a row as angles.

    Source: Su et al. (2021), arXiv:2104.09864.
    """
    omega = 1e4 ** (-torch.arange(features // 2, dtype=torch.float64) / (features // 2))
    angles = torch.arange(places, dtype=torch.float64)[:, None] * omega
    return torch.stack([angles.cos(), angles.sin()]).float()


def grid_angles(rows: int, columns: int, count: int) -> Tensor:
    """r ω_k and c ω_k of the patch in row r and column c, (rows·columns, 2·count), ω_k from a quarter turn down to 1/16 of it.

    Source: Heo et al. (2024), arXiv:2403.13298, axial frequencies.
    """
    omega = math.pi / 2 * 16.0 ** (-torch.arange(count) / max(count, 1))
    r, c = (torch.arange(n)[:, None] * omega for n in (rows, columns))
    return torch.cat([r.repeat_interleave(columns, 0), c.repeat(rows, 1)], 1)


def turned(v: Tensor, turn: Tensor) -> Tensor:
    """Pairs of features (…, places, features) turned by the angles of their places, so that q·k sees how far apart they are."""
    (a, b), (c, s) = v[..., : 2 * turn.shape[2]].chunk(2, -1), turn.to(v)
    return torch.cat([a * c - b * s, a * s + b * c, v[..., 2 * turn.shape[2] :]], -1)


def attend(qkv: Tensor, heads: int, turn: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ/√d) v.

    torch's fused CPU kernel takes three times as long as plain products in bfloat16, and longer in float32 for few tokens.

    Arguments:
        qkv: (B, tokens, 3·width).
        heads: a divisor of the width.
        turn: the places of the tokens as angles, see `turns`.
    """
    b, n, width = qkv.shape
    q, k, v = qkv.reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k = (q, k) if turn is None else (turned(q, turn), turned(k, turn))
    if qkv.device.type == "cpu" and (n <= 64 or qkv.dtype == torch.bfloat16):
        out = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).to(v.dtype) @ v
    else:
        out = scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(b, n, width // 3)

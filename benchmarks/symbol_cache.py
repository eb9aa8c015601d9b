"""Drawing symbols with what is kept from before, beside reading everything again: symbols a second, length 256.

A causal transformer that keeps keys and values draws 64 rows; `ratio` is its time at length 256 over that at 128.  The peer is
the same network, which reads the whole prefix again for each symbol.  Of masked diffusion, network calls for each cell: the
cached chain of 1,024 levels beside the same chain level by level.
"""

import functools
import time

METRIC, HIGHER, OWN_PEER = "symbols_per_second", True, True
VARIANTS = [{"family": "autoregressive"}, {"family": "absorbing"}]
ROWS, SYMBOLS, LENGTHS, LEVELS = 64, 65, (128, 256), 1024


def prepare(folder, data):
    del folder, data


def seconds_of(draw):
    """The least of three, of processor time: what neighbours do to the caches only adds."""
    spent = []
    for _ in range(3):
        begin = time.process_time()
        draw()
        spent.append(time.process_time() - begin)
    return min(spent)


def network(length):
    import torch

    from likeli.models.autoregressive import Autoregressive
    from likeli.spaces import Tokens

    torch.manual_seed(0)
    return Autoregressive(Tokens(length, SYMBOLS)).eval()


def masked(sampler):
    """Symbols a second, and network calls a cell, of 64 rows of 64 symbols."""
    import torch

    from likeli.discrete.backbone import SymbolBackbone
    from likeli.models.discrete_diffusion import DiscreteDiffusion
    from likeli.spaces import Tokens

    torch.manual_seed(0)
    model, calls = DiscreteDiffusion(Tokens(64, 8), backbone=SymbolBackbone(hidden=(64, 64))).eval(), []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    begin = time.process_time()
    model.sample(ROWS, sampler=sampler, steps=LEVELS)
    spent = time.process_time() - begin
    return {METRIC: ROWS * 64 / spent, "calls_per_cell": len(calls) / 64}


def ours(folder, family):
    if family == "absorbing":
        return masked("cached")
    short, long = (seconds_of(functools.partial(network(n).sample, ROWS)) for n in LENGTHS)
    return {METRIC: ROWS * LENGTHS[1] / long, "ratio": long / short}


def peer(folder, family):
    if family == "absorbing":
        return masked("ancestral")
    import torch

    model = network(LENGTHS[1])
    x, spent = torch.randint(SYMBOLS, (ROWS, LENGTHS[1])), 0.0
    for i in range(8, LENGTHS[1], 16):  # one prefix in sixteen, which is even over the lengths
        begin = time.process_time()
        with torch.no_grad():
            x[:, i] = model.next_log_pmf(x, i).exp().multinomial(1)[:, 0]
        spent += 16 * (time.process_time() - begin)
    return {METRIC: ROWS * LENGTHS[1] / spent, "ratio": float("nan")}

"""Diffusion of symbols on a source of known entropy: order-2 Markov, 8 symbols, rows of 64, fresh rows without limit.

Bits a symbol above the source's own log p, row by row, on 2,000 rows; 0 is the best that there is.  The peer is the simplest
honest baseline, counts of triples with ½ added, from ten batches of rows for each second that ours has: about what ours sees.
"""

import math
import time

METRIC = "bits_above"
VARIANTS = [{"corruption": c, "seconds": s} for c in ("absorbing", "uniform") for s in (60, 1200)]
LENGTH, SYMBOLS, BATCH, TEST = 64, 8, 64, 2000


def prepare(folder, data):
    del folder, data


def source():
    import torch

    from likeli.random import seeded

    with seeded(0, "source"):
        law = torch.distributions.Dirichlet(torch.full((SYMBOLS,), 0.3, dtype=torch.float64))
        return law.sample((SYMBOLS, SYMBOLS))


def rows(p, n, generator):
    import torch

    x = torch.zeros(n, LENGTH, dtype=torch.long)
    x[:, :2] = torch.randint(SYMBOLS, (n, 2), generator=generator)
    for i in range(2, LENGTH):
        x[:, i] = torch.multinomial(p[x[:, i - 2], x[:, i - 1]], 1, generator=generator)[:, 0]
    return x


def nats(p, x):
    return p[x[:, :-2], x[:, 1:-1], x[:, 2:]].log().sum(1) - 2 * math.log(SYMBOLS)


def result(log_p, p, x, steps):
    above = (nats(p, x) - log_p) / (LENGTH * math.log(2))
    return {METRIC: above.mean().item(), "stderr": (above.std() / len(x) ** 0.5).item(), "steps": steps}


def ours(folder, corruption, seconds):
    import torch

    from likeli.discrete.backbone import SymbolBackbone
    from likeli.models.discrete_diffusion import DiscreteDiffusion
    from likeli.spaces import Tokens

    torch.manual_seed(0)
    p, generator = source(), torch.Generator().manual_seed(0)
    model = DiscreteDiffusion(Tokens(LENGTH, SYMBOLS), corruption, backbone=SymbolBackbone(hidden=(64, 64, 64)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01)
    begin, steps = time.process_time(), 0
    while (spent := time.process_time() - begin) < seconds:
        pace = min(1, (steps + 1) / 100) * max(0.02, math.cos(math.pi / 2 * spent / seconds))
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * pace
        optimiser.zero_grad()
        model.loss(rows(p, BATCH, generator)).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        steps += 1
    x = rows(p, TEST, torch.Generator().manual_seed(1))
    return result(model.log_likelihood(x, samples=8).value, p, x, steps)


def peer(folder, corruption, seconds):
    import torch

    p, generator, steps = source(), torch.Generator().manual_seed(0), 10 * seconds
    counts = torch.full((SYMBOLS, SYMBOLS, SYMBOLS), 0.5, dtype=torch.float64)
    for _ in range(steps):
        x = rows(p, BATCH, generator)
        at = (x[:, :-2], x[:, 1:-1], x[:, 2:])
        counts.index_put_(at, torch.ones((), dtype=torch.float64), accumulate=True)
    x = rows(p, TEST, torch.Generator().manual_seed(1))
    return result(nats(counts / counts.sum(-1, keepdim=True), x), p, x, steps)

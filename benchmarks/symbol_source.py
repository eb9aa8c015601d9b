"""Order-2 Markov source of 8 symbols, rows of 64, fresh rows without limit: bits a symbol above the source's own log p.

Row by row on 20,000 test rows, so that 0 is the best that there is on average; of diffusion the bound (NELBO).  The peer is the
simplest honest baseline, counts of triples with ½ added, from ten batches of rows for each second that ours has: about what
ours sees.
"""

import math
import time

from benchmarks._precision import fastest

METRIC, OWN_PEER = "bits_above", True
VARIANTS = [{"family": family, "seconds": 1200} for family in ("autoregressive", "absorbing", "uniform")]
LENGTH, SYMBOLS, TEST, DRAWS = 64, 8, 20_000, 4
BATCH = {"autoregressive": 128, "absorbing": 64, "uniform": 64}
RATE = {"autoregressive": 5e-3, "absorbing": 1e-2, "uniform": 6e-3}


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


def made(family):
    from likeli.discrete.backbone import SymbolBackbone
    from likeli.models.autoregressive import Autoregressive, CausalBackbone
    from likeli.models.discrete_diffusion import DiscreteDiffusion
    from likeli.spaces import Tokens

    space = Tokens(LENGTH, SYMBOLS)
    if family == "autoregressive":
        return Autoregressive(space, CausalBackbone("transformer", (64, 64)))
    return DiscreteDiffusion(space, family, backbone=SymbolBackbone("lstm", hidden=(64, 64)))


def ours(folder, family, seconds, seed=0):
    import torch

    torch.manual_seed(seed)
    p, generator, model = source(), torch.Generator().manual_seed(seed), made(family)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE[family], betas=(0.9, 0.99), weight_decay=0.01)
    half, begin, steps = fastest() != "32", time.process_time(), 0
    while (spent := time.process_time() - begin) < seconds:
        pace = min(1, (steps + 1) / 100) * max(0.01, math.cos(math.pi / 2 * spent / seconds))
        for group in optimiser.param_groups:
            group["lr"] = RATE[family] * pace
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model.loss(rows(p, BATCH[family], generator)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        steps += 1
    x = rows(p, TEST, torch.Generator().manual_seed(2**32))
    options = {} if family == "autoregressive" else {"samples": DRAWS}
    return result(model.log_likelihood(x, **options).value.double(), p, x, steps)


def peer(folder, family, seconds):
    import torch

    p, generator, steps = source(), torch.Generator().manual_seed(0), 10 * seconds
    counts = torch.full((SYMBOLS, SYMBOLS, SYMBOLS), 0.5, dtype=torch.float64)
    for _ in range(steps):
        x = rows(p, BATCH[family], generator)
        at = (x[:, :-2], x[:, 1:-1], x[:, 2:])
        counts.index_put_(at, torch.ones((), dtype=torch.float64), accumulate=True)
    x = rows(p, TEST, torch.Generator().manual_seed(1))
    return result(nats(counts / counts.sum(-1, keepdim=True), x), p, x, steps)

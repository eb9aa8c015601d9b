"""Ordered categories from few rows: nats a cell above the entropy, an ordinal head beside a nominal one.

A row is a Markov chain of 8 cells in {0 … 9}: rounded normals, x₁ ~ N(4.5, 2²), x_{i+1} ~ N(4.5 + 0.8 (x_i − 4.5), 1.5²), cut
to the range, so the entropy is a sum over a table.  Both sides are the same autoregressive perceptron, fitted on four fifths of
the rows and stopped by the last; ours reads a cell by logistics cut into bins, the peer by a logit for each category.  The
mean of log p over 20,000 fresh rows is compared with the source's own on the same rows.
"""

import math

METRIC, OWN_PEER = "nats_above", True
VARIANTS = [{"rows": n} for n in (200, 1_000, 2_000, 20_000)]
CELLS, LEVELS, TEST, STEPS = 8, 10, 20_000, {200: 300, 1_000: 600, 2_000: 800, 20_000: 2_500}


def prepare(folder, data):
    del folder, data


def rounded_normal(mean, sd):
    """Masses of {0 … 9}, the ends reaching to infinity, (…, 10)."""
    import torch

    edges = torch.arange(1, LEVELS, dtype=torch.float64) - 0.5
    below = torch.special.ndtr((edges - mean[..., None]) / sd)
    below = torch.nn.functional.pad(torch.nn.functional.pad(below, (1, 0)), (0, 1), value=1)
    return below.diff(dim=-1)


def laws():
    import torch

    first = rounded_normal(torch.tensor([4.5], dtype=torch.float64), 2.0)[0]
    return first, rounded_normal(4.5 + 0.8 * (torch.arange(LEVELS, dtype=torch.float64) - 4.5), 1.5)


def drawn(n, seed):
    import torch

    first, then = laws()
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, CELLS, dtype=torch.long)
    x[:, 0] = torch.multinomial(first, n, True, generator=generator)
    for i in range(1, CELLS):
        x[:, i] = torch.multinomial(then[x[:, i - 1]], 1, generator=generator)[:, 0]
    return x


def nats(x):
    first, then = laws()
    return first[x[:, 0]].log() + then[x[:, :-1], x[:, 1:]].log().sum(1)


def fitted(rows, head):
    import torch

    from likeli.data import Data
    from likeli.models.autoregressive import Autoregressive, CausalBackbone
    from likeli.spaces import Pixels
    from likeli.training import fit

    torch.manual_seed(0)
    x, cut, space = drawn(rows, 1).to(torch.uint8), rows * 4 // 5, Pixels((CELLS,), LEVELS)
    parts = torch.arange(cut), torch.arange(cut, rows), torch.arange(0)
    data = Data("ordered", x, None, space, None, *parts, kind="pixels")
    model = Autoregressive(space, CausalBackbone("made", (64, 64)), head=head)
    fit(model, data, steps=STEPS[rows], lr=3e-3, validate_every=20, progress=False)
    test = drawn(TEST, 2)
    above = (nats(test) - model.log_likelihood(test.to(torch.uint8)).value.double()) / CELLS
    stderr, entropy = above.std().item() / math.sqrt(TEST), -nats(test).mean().item() / CELLS
    return {METRIC: above.mean().item(), "stderr": stderr, "source": entropy}


def ours(folder, rows):
    from likeli.spaces import DiscretisedLogistic

    return fitted(rows, DiscretisedLogistic(1))


def peer(folder, rows):
    from likeli.spaces import Categorical

    return fitted(rows, Categorical())

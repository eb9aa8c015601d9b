"""log p of a table's reals in equal CPU seconds on one core: each family against zuko's neural spline flow, nats a row.

Columns of whole numbers and of two or three decimals have no density; both sides see them spread evenly over their spacing (the
least distance between two values), the same noise for both, so that a density in the table's units is finite and comparable.
80 % of the rows train, 10 % choose when to stop, 10 % are scored.  The peer has three transforms of eight bins by networks of
two layers of 256, standardised columns, batches of 256, and the weights that were best on the validation rows.
Data: letter.csv and spam.csv.
"""

import time

import numpy as np

METRIC, HIGHER = "nats", True
SETS, FAMILIES = ("letter", "spam"), ("boosted_trees", "gmm", "flow")
VARIANTS = [{"name": name, "family": family, "seconds": 240} for name in SETS for family in FAMILIES]


def prepare(folder, data):
    """The jittered rows of each set."""
    for name in SETS:
        x = np.loadtxt(data / f"{name}.csv", delimiter=",", skiprows=1)
        spacing = np.array([np.diff(np.unique(column)).min() for column in x.T])
        spacing = np.maximum(spacing, 1e-3)  # of averages that have all digits
        np.save(folder / f"{name}.npy", x + spacing * np.random.default_rng(0).random(x.shape))


def parts(folder, name, seed):
    """Training, validation and test rows."""
    x = np.load(folder / f"{name}.npy")
    x, n = x[np.random.default_rng(seed).permutation(len(x))], len(x) // 10
    return x[2 * n :], x[n : 2 * n], x[:n]


def ours(folder, name, family, seconds, seed=0, **options):
    import torch

    import likeli
    from likeli.data.dataset import Data
    from likeli.spaces import Real

    train, valid, test = (torch.from_numpy(part).float() for part in parts(folder, name, seed))
    space = Real((train.shape[1],), mean=train.mean(0), scale=train.std(0))
    rows = torch.arange(len(train) + len(valid))
    data = Data(name, torch.cat([train, valid]), None, space, None, rows[: len(train)], rows[len(train) :], rows[:0])
    cls = likeli.families()[family]
    suited = cls.suited(space, len(train), options) if hasattr(cls, "suited") else {}
    begin = time.process_time()
    with likeli.seeded(seed):
        model = cls(space, **{**suited, **options})
    limit = {} if family in ("gmm", "boosted_trees") else {"minutes": seconds / 60}
    likeli.fit(model, data, progress=False, seed=seed, **limit)
    spent = time.process_time() - begin
    found = likeli.evaluate(model, test, seed=0)
    return {"nats": found.nats, "stderr": found.stderr, "cpu_seconds": spent, "options": {k: str(v) for k, v in suited.items()}}


def peer(folder, name, family, seconds, seed=0):
    """`family` is ours alone."""
    import copy

    import torch
    import zuko

    train, valid, test = (torch.from_numpy(part).float() for part in parts(folder, name, seed))
    mean, scale = train.mean(0), train.std(0)
    train, valid, test = ((part - mean) / scale for part in (train, valid, test))
    torch.manual_seed(seed)
    flow = zuko.flows.NSF(train.shape[1], transforms=3, hidden_features=(256, 256))
    adam, begin, best, kept = torch.optim.Adam(flow.parameters(), lr=1e-3), time.process_time(), -np.inf, None
    while time.process_time() - begin < seconds:
        for rows in torch.randperm(len(train)).split(256):
            loss = -flow().log_prob(train[rows]).mean()
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            adam.step()
        with torch.no_grad():
            reached = flow().log_prob(valid).mean().item()
        if reached > best:
            best, kept = reached, copy.deepcopy(flow.state_dict())
    spent = time.process_time() - begin
    flow.load_state_dict(kept)
    with torch.no_grad():
        nats = (flow().log_prob(test) - scale.log().sum()).double()
    return {"nats": nats.mean().item(), "stderr": (nats.std() / len(nats) ** 0.5).item(), "cpu_seconds": spent}

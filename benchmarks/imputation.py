"""Filling a fifth of the cells, hidden at random: `impute` with its defaults against miceforest and scikit-learn's imputers.

ForestDiffusion's protocol (Jolicoeur-Martineau et al. 2024, arXiv:2309.09968) with its own splits and masks: 80 % of the rows,
the class as a last column that is always seen (letter and spam have none), three seeds; a number's error is in shares of its
range, a category's 0 or 1.
Averages over seeds and hidden cells:

    draw    error of one draw, the mean of five: least for a method that draws its best guess again and again
    point   error of the median of all draws, or of the most frequent category
    crps    E|x − X| − ½ E|X − X'|, which is least where the draws X are of p(x_m|x_o)
    cover   share of hidden numbers inside the 90 % interval of the draws; of fewer than 19, NaN

Each peer's points and draws are reported, and the best of them is what ours is beside.  Published draws: miceforest .082, .112
and .040 on iris, wine and breast cancer; points: MissForest .072, .106 and .036.  letter, spam and adult are 3,000 rows.
"""

import time

import numpy as np

METRIC, HIGHER = "crps", False
SMALL, LARGE, SEEDS, DRAWS, ROWS = ("iris", "wine", "breast_cancer"), ("letter", "spam", "adult"), 3, 99, 3000
VARIANTS = [{"name": name} for name in SMALL + LARGE] + [{"name": n, "family": "boosted_trees"} for n in SMALL + LARGE]


def prepare(folder, data):
    """For each set and seed: rows x, which cells are hidden, and which columns are categories."""
    import torch
    from sklearn.model_selection import train_test_split

    for name in SMALL + LARGE:
        x, nominal, classes = whole(name, data)
        for seed in range(SEEDS):
            told = x[:, -1] if classes else None
            rows = train_test_split(x, test_size=0.2, random_state=seed, stratify=told)[0]
            torch.manual_seed(seed)
            hidden = torch.zeros(rows.shape, dtype=torch.bool)
            part = hidden[:, : -1 if classes else None]
            part.copy_(torch.rand(part.shape, dtype=torch.float64) < 0.2)
            kept = ~part.all(1).numpy()
            np.savez(folder / f"{name}{seed}.npz", x=rows[kept], hidden=hidden.numpy()[kept], nominal=nominal)


def whole(name, data):
    """(rows, codes in place of categories; which columns are these; whether the last is the class); rows without gaps."""
    from sklearn import datasets

    if name in SMALL:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return np.column_stack([x, y]), np.arange(x.shape[1] + 1) == x.shape[1], True
    import pandas as pd

    table = pd.read_csv(data / f"{name}.csv", skipinitialspace=True, na_values="?").dropna()
    table = table.sample(min(ROWS, len(table)), random_state=0)
    nominal = ~table.dtypes.map(pd.api.types.is_numeric_dtype).to_numpy()
    codes = [pd.Categorical(table[c]).codes if n else table[c] for c, n in zip(table, nominal)]
    return np.stack(codes, 1).astype(float), nominal, bool(nominal[-1])


def cases(folder, name):
    """Each seed's (whole rows, rows with holes, hidden, nominal)."""
    for seed in range(SEEDS):
        with np.load(folder / f"{name}{seed}.npz") as found:
            x, hidden, nominal = found["x"], found["hidden"], found["nominal"]
        yield x, np.where(hidden, np.nan, x), hidden, nominal


def judged(x, hidden, nominal, draws):
    """Draws (n, rows, columns) at the hidden cells: see above; `cover` is NaN for fewer than 19 draws."""
    span = np.where(nominal, 1, np.ptp(x, axis=0))
    at, drawn = np.nonzero(hidden), draws[:, hidden].astype(float)
    true, named, span = x[hidden], nominal[at[1]], span[at[1]]

    def error(a):
        return np.where(named, a != true, np.abs(a - true) / span)

    ordered, n = np.sort(drawn, 0), len(drawn)
    point = np.median(drawn, 0)
    for k in np.flatnonzero(named):
        values, count = np.unique(drawn[:, k], return_counts=True)
        point[k] = values[count.argmax()]
    rank = 2 * np.arange(1, n + 1)[:, None] - n - 1
    spread = (rank * ordered).sum(0) / (n * max(n - 1, 1)) / span  # ½ E|X − X'| of a number
    spread[named] = [(1 - sum(c * (c - 1) for c in np.unique(drawn[:, k], return_counts=True)[1]) / (n * (n - 1))) / 2
                     if n > 1 else 0 for k in np.flatnonzero(named)]  # fmt: skip
    found = {"draw": error(drawn[:5]).mean(), "point": error(point).mean(), "crps": (error(drawn).mean(0) - spread).mean()}
    k = int((n + 1) * 0.05 + 1e-9)
    inside = (ordered[k - 1] <= true) & (true <= ordered[-k])
    return found | {"cover": inside[~named].mean() if k else np.nan}


def averaged(fill, folder, name):
    """What `fill(rows with holes, nominal, seed)` → draws is worth, the mean over seeds."""
    begin, found = time.perf_counter(), []
    for seed, (x, holed, hidden, nominal) in enumerate(cases(folder, name)):
        found.append(judged(x, hidden, nominal, fill(holed, nominal, seed)))
    means = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
    return means | {"seconds": (time.perf_counter() - begin) / SEEDS}


def ours(folder, name, family="gmm"):
    import pandas as pd

    import likeli

    def fill(holed, nominal, seed):
        table = pd.DataFrame(holed, columns=[f"x{i}" for i in range(holed.shape[1])])
        types = {c: "categorical" for c, n in zip(table, nominal) if n}
        data = likeli.load_data(table, kind="table", types=types, seed=seed, fractions=(0.9, 0.1, 0))
        cls = likeli.families()[family]
        suited = cls.suited(data.space, len(data.train), {}) if hasattr(cls, "suited") else {}
        model = cls(data.space, **suited)
        likeli.fit(model, data, progress=False, seed=seed)
        draws = likeli.impute(model, data.x, DRAWS, seed=seed).draws.double().numpy()
        for j in np.flatnonzero(nominal):  # codes of the space are those of sorted texts
            draws[:, :, j] = np.array(data.space.columns[j].categories, float)[draws[:, :, j].astype(int)]
        return draws

    return averaged(fill, folder, name)


def peer(folder, name, family=None):
    """Every peer; `family` is ours alone."""
    found = {method.__name__: averaged(method, folder, name) for method in (knn, ridge, extra_trees, mice)}
    best = {key: min(f[key] for f in found.values()) for key in ("draw", "point", "crps")}
    each = {f"{method}_{key}": f[key] for method, f in found.items() for key in ("draw", "point", "crps", "cover", "seconds")}
    return best | {"seconds": sum(f["seconds"] for f in found.values())} | each


def indicated(fill):
    """A filler of numbers as one of mixed rows: a category is an indicator a name, of which the largest is taken."""

    def filled(holed, nominal, seed):
        names = [np.unique(v[~np.isnan(v)]) if n else None for v, n in zip(holed.T, nominal)]
        parts = [v[:, None] if n is None else np.where(np.isnan(v)[:, None], np.nan, v[:, None] == n)
                 for v, n in zip(holed.T, names)]  # fmt: skip
        ends = np.cumsum([p.shape[1] for p in parts])[:-1]
        draws = []
        for one in fill(np.concatenate(parts, 1), seed):
            blocks = np.split(one, ends, axis=1)
            draws.append([b[:, 0] if n is None else n[b.argmax(1)] for b, n in zip(blocks, names)])
        return np.array(draws).transpose(0, 2, 1)

    filled.__name__ = fill.__name__
    return filled


@indicated
def knn(x, seed):
    from sklearn.impute import KNNImputer
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler()
    return [scale.inverse_transform(KNNImputer().fit_transform(scale.fit_transform(x)))]


def chained(model, x, **options):
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    return IterativeImputer(model, max_iter=5, **options).fit_transform(x)


@indicated
def ridge(x, seed):
    from sklearn.linear_model import BayesianRidge

    return [chained(BayesianRidge(), x, sample_posterior=True, random_state=19 * seed + i) for i in range(19)]


@indicated
def extra_trees(x, seed):
    """In MissForest's manner."""
    from sklearn.ensemble import ExtraTreesRegressor

    return [chained(ExtraTreesRegressor(50, random_state=seed), x, random_state=seed)]


def mice(holed, nominal, seed):
    import miceforest
    import pandas as pd

    table = pd.DataFrame(holed, columns=[f"x{i}" for i in range(holed.shape[1])])
    for c, n in zip(table, nominal):
        table[c] = table[c].astype("category") if n else table[c]
    kernel = miceforest.ImputationKernel(table, save_all_iterations_data=False, num_datasets=5, random_state=seed)
    kernel.mice(5)
    return np.stack([kernel.complete_data(dataset=i).to_numpy(float) for i in range(5)])

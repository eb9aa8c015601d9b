"""Two runs of blood cells (PBMC), 200 each: what an embedding of 10 numbers still tells of a cell's run, and what of its type.

Ours is a VAE given the run as y, with a critic of weight `critic` against it (0 for none), by one of the heads of counts; the
peer is the classical way without a model: principal components of log-normalised counts, centred within each run.  `logistic`
and `knn` are the shares of cells whose run is told from the embedding by those of the other folds, five of them; 0.5 is chance,
and 0.451 to 0.549 its 95 % interval.  Types are called from marker genes by their mean standard score within a run, never by a
model; `purity` is the share of a cell's 15 nearest neighbours of its type, `silhouette` of types.  `depth` is the R² of the
log of a cell's total given its embedding, by ridge regression over the same folds.  All cells are fitted: correction is
asked for of the cells at hand.  The weights were chosen on these cells.  scvi-tools is a peer in `counts` alone.
Data: scrna_pbmc_two_batches.npz.
"""

import time

import numpy as np

METRIC, OWN_PEER = "knn", True
WIDTH, STEPS, NEIGHBOURS = 10, 600, 15
MARKERS = {
    "T": "CD3D CD3E CD3G CD2 IL7R TRAC",
    "B": "MS4A1 CD79A CD79B",
    "monocyte": "LYZ S100A8 S100A9 CD14 FCN1 CST3 FCGR3A MS4A7",
    "NK": "NKG7 GNLY KLRD1 GZMB PRF1 KLRF1",
}
VARIANTS = [
    {"head": head, "critic": weight} for head in ("negative_binomial", "dirichlet_multinomial") for weight in (0, 3, 10)
]


def prepare(folder, data):
    (folder / "cells.npz").write_bytes((data / "scrna_pbmc_two_batches.npz").read_bytes())


def cells(folder):
    """(counts, run 0 or 1, log of 1 + counts per 10,000, type)."""
    with np.load(folder / "cells.npz") as found:
        x, genes, run = found["counts"].astype(np.int64), found["genes"].tolist(), found["batch"].astype(np.int64)
    level = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    score = np.empty((len(x), len(MARKERS)))
    for r in (0, 1):
        for k, names in enumerate(MARKERS.values()):
            part = level[np.ix_(run == r, [genes.index(name) for name in names.split()])]
            score[run == r, k] = ((part - part.mean(0)) / part.std(0)).mean(1)
    return x, run, level, score.argmax(1)


def told(z, run, kind, x):
    """What an embedding (cells, numbers) tells."""
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    probes = {"logistic": LogisticRegression(max_iter=1000), "knn": KNeighborsClassifier(NEIGHBOURS)}
    found = {
        name: float((cross_val_predict(make_pipeline(StandardScaler(), probe), z, run, cv=folds) == run).mean())
        for name, probe in probes.items()
    }
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(z).kneighbors(return_distance=False)
    found |= {"purity": float((kind[near] == kind[:, None]).mean()), "silhouette": float(silhouette_score(z, kind))}
    depth = np.log(x.sum(1))
    guess = cross_val_predict(make_pipeline(StandardScaler(), RidgeCV()), z, depth, cv=folds.split(z, run))
    return found | {"depth": float(1 - ((depth - guess) ** 2).mean() / depth.var())}


def ours(folder, head, critic, seed=0):
    import likeli
    from likeli import spaces

    x, run, _, kind = cells(folder)
    begin = time.process_time()
    heads = {"negative_binomial": spaces.NegativeBinomial(), "dirichlet_multinomial": spaces.DirichletMultinomial()}
    with likeli.seeded(seed):
        model = likeli.VAE(
            spaces.Counts((x.shape[1],)), WIDTH, likeli.CoderBackbone((128,)), head=heads[head],
            objective=likeli.VariationalObjective(critic=critic), condition=spaces.Labels(2),
        )  # fmt: skip
    likeli.fit(model, x, run, steps=STEPS, seed=seed, progress=False)
    z = likeli.embed(model, x, run).double().numpy()
    return {"seconds": time.process_time() - begin} | told(z, run, kind, x)


def peer(folder, head, critic, seed=0):
    from sklearn.decomposition import PCA

    x, run, level, kind = cells(folder)
    begin = time.process_time()
    centred = level - np.stack([level[run == r].mean(0) for r in (0, 1)])[run]
    z = PCA(WIDTH, random_state=seed).fit_transform(centred)
    return {"seconds": time.process_time() - begin} | told(z, run, kind, x)

"""AnnData by its public attributes, and sparse counts that are never written out as a whole.

The stand-in has what an AnnData has, so that the package itself is not needed; `tests/cli/test_h5ad.py` has the real one.
"""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import likeli
from likeli.cli.catalogue import catalogue
from likeli.cli.objects import reasons_against
from likeli.cli.plan import Plan
from likeli.data import annotated, load_rows, rebuild
from likeli.errors import InputError
from likeli.estimator import Classifier, Density, Embedding, Outlier

GENES = [f"g{i}" for i in range(40)]


class Cells(SimpleNamespace):
    """As an AnnData: X, layers, obs, obsm, var_names, and its rows by an index."""

    @property
    def shape(self):
        return self.X.shape

    def __getitem__(self, rows):
        layers = {name: x[rows] for name, x in self.layers.items()}
        return Cells(X=self.X[rows], layers=layers, obs=self.obs.iloc[rows], obsm={}, var_names=self.var_names)


def cells(n=300, seed=0):
    """Cells of two types in two batches, their counts as float32, as most .h5ad have them, and log(1 + x) in a layer."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(2, size=(2, n))
    x = sparse.csr_matrix(rng.poisson(0.5 * np.exp(rng.normal(size=(2, 40)))[kind]).astype(np.float32))
    obs = pd.DataFrame({"cell_type": pd.Categorical(np.array(["T", "B"])[kind]), "batch": batch})
    return Cells(X=x, layers={"counts": x.copy(), "log": x.log1p()}, obs=obs, obsm={}, var_names=pd.Index(GENES))


def test_counts_come_with_names_and_labels():
    given = cells()
    data = likeli.load_data(given, labels="cell_type")
    assert (data.kind, data.space.kind(), data.space.names) == ("counts", "counts", tuple(GENES))
    assert torch.equal(data.x, torch.from_numpy(given.X.toarray()).long())
    assert data.condition.names == ("B", "T")
    assert [data.condition.names[k] for k in data.y.tolist()] == given.obs["cell_type"].tolist()
    assert likeli.load_data(given, labels="batch").condition.classes == 2
    assert likeli.load_data(given, labels=given.obs["batch"].to_numpy()).y.tolist() == given.obs["batch"].tolist()


def test_a_layer_is_read_in_place_of_x_and_numbers_by_a_word():
    given = cells()
    given.X, counts = given.layers["log"], given.X
    data = likeli.load_data(given, layer="counts")
    assert torch.equal(data.x, torch.from_numpy(counts.toarray()).long())
    assert data.describe()["layer"] == "counts"
    assert torch.equal(rebuild(data.describe(), given).x, data.x)
    for kind in ("real", "table"):
        data = likeli.load_data(given, kind=kind)
        assert (data.kind, data.space.names) == (kind, tuple(GENES))
        assert np.array_equal(data.x.numpy(), given.X.toarray().astype(float))


def changed(**what):
    given = cells()
    for name, value in what.items():
        setattr(given, name, value)
    return given


def with_cell(value):
    x = cells().X.toarray()
    x[7, 3] = value
    return x


WRONG = {
    "no such layer": (cells, {"layer": "count"}, "layer: expected one of counts, log; did you mean counts"),
    "no layers": (lambda: changed(layers={}), {"layer": "counts"}, "layer: expected nothing, since there are no layers"),
    "no such column": (cells, {"labels": "celltype"}, "labels: expected a column of obs: cell_type, batch; did you"),
    "no columns": (lambda: changed(obs=cells().obs[[]]), {"labels": "a"}, "expected a column of obs: it has none"),
    "too few labels": (cells, {"labels": [0, 1]}, "labels: expected 300 labels, one a row, got 2"),
    "no genes": (lambda: changed(X=sparse.csr_matrix((300, 0)), var_names=pd.Index([])), {}, "expected at least one gene"),
    "one gene twice": (lambda: changed(var_names=pd.Index(["g1", *GENES[1:]])), {}, "distinct names .*, got g1 more than once"),
    "no X": (lambda: changed(X=None), {}, "X: expected a matrix; layer= one of counts, log, got none"),
    "one cell": (lambda: cells()[:1], {}, "at least 2 rows"),
    "no count": (lambda: changed(X=sparse.csr_matrix((300, 40))), {}, "expected a count above 0"),
    "fractions": (cells, {"layer": "log"}, "expected counts, whole numbers from 0, got 1.09861 at row 0, column g1.*'real'"),
    "below 0": (lambda: changed(X=sparse.csr_matrix(with_cell(-1))), {}, "got -1 at row 7, column g3"),
    "below 0, dense": (lambda: changed(X=with_cell(-2)), {}, "got -2 at row 7, column g3"),
    "NaN": (lambda: changed(X=with_cell(np.nan)), {"kind": "counts"}, "got nan at row 7, column g3"),
    "infinite": (lambda: changed(X=with_cell(np.inf)), {}, "got inf at row 7, column g3"),
    "another option": (cells, {"n": 3}, "expected no option but layer, got n"),
    "types": (cells, {"types": {"g1": "drop"}}, "types: expected kind='table' beside them, got counts"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name):
    made, options, said = WRONG[name]
    with pytest.raises(InputError, match=said) as told:
        likeli.load_data(made(), **options)
    assert "\n" not in str(told.value)


def test_a_matrix_that_stays_in_its_file_is_read_as_it_is():
    class Sparse:
        def to_memory(self):
            return cells().X.tocsc()

    class Dense:
        shape = (300, 40)

        def __getitem__(self, rows):
            return cells().X.toarray()[rows]

    truth = likeli.load_data(cells()).x
    assert torch.equal(likeli.load_data(changed(X=Sparse())).x, truth)
    assert torch.equal(likeli.load_data(changed(X=Dense())).x, truth)


def test_genes_are_matched_by_name():
    given, space = cells(), likeli.load_data(cells()).space
    order = np.random.default_rng(0).permutation(40)
    other = changed(X=given.X[:, order], var_names=pd.Index(np.array(GENES)[order]))
    assert torch.equal(load_rows(other, space)[0], load_rows(given, space)[0])
    more = changed(X=sparse.hstack([given.X, given.X[:, :2]]).tocsr(), var_names=pd.Index([*GENES, "new", "newer"]))
    with pytest.warns(UserWarning, match="left out, since the model does not know them: 2 columns"):
        assert torch.equal(load_rows(more, space)[0], load_rows(given, space)[0])
    fewer = changed(X=given.X[:, 2:], var_names=pd.Index(GENES[2:]))
    with pytest.raises(InputError, match="expected the columns of the fit, got none called g0 and 1 more"):
        load_rows(fewer, space)


# --- sparse -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def written_out(monkeypatch):
    """Matrices above 2,000 cells stay sparse here; the numbers of cells that were written out at once."""
    seen, toarray = [], sparse.csr_matrix.toarray
    monkeypatch.setattr(annotated, "CELLS_OF_A_PART", 2000)
    monkeypatch.setattr(annotated, "CELLS_AT_ONCE", 2000)
    monkeypatch.setattr(annotated, "FEWEST", 16)
    monkeypatch.setattr("likeli.estimator.rows_in.CELLS_AT_ONCE", 2000)
    monkeypatch.setattr(sparse.csr_matrix, "toarray", lambda x, *a, **k: seen.append(np.prod(x.shape)) or toarray(x, *a, **k))
    return seen


def trained(data, **options):
    with likeli.seeded(0):
        model = likeli.VAE(data.space, latent_dim=2, condition=data.condition)
    history = likeli.fit(model, data, steps=20, batch=32, log_every=1, progress=False, **options)
    return model, [row["loss"] for row in history.rows]


def test_sparse_counts_train_as_dense_ones_do_and_are_never_written_out(written_out):
    given = cells(1000)
    found = likeli.load_data(given, labels="batch")
    assert (len(found), found.stream.place, found.describe()["streamed"]) == (150, "sparse", 800)
    assert "1,000 rows of 40 counts stay sparse" in found.warnings[0]
    ours = trained(found)[1]
    assert max(written_out) <= 3 * 2000  # a sample of each part
    dense = likeli.load_data(Cells(**vars(given) | {"X": given.X.toarray()}), labels="batch")
    assert ours == trained(dense)[1]  # to the bit: the same rows in the same order
    assert torch.equal(found.split("test")[0], dense.x[dense.test[:50]])


def test_families_that_look_at_all_rows_at_once_are_told_from_those_that_take_batches(written_out):
    """So that a ranking leaves them out with a line each."""
    data, known = likeli.load_data(cells(1000)), catalogue(())
    found = reasons_against(Plan("cells.h5ad"), data, known)
    assert {"gmm", "independent", "ppca"} <= {name for name, why in found.items() if "looks at all rows at once" in why}
    assert not {found[name] for name in ("vae", "hvae", "flow")} - {""}
    for name in ("vae", "independent"):
        model = likeli.build({"class": name, "space": data.space}, likeli.GenerativeModel)
        if found[name]:
            with pytest.raises(InputError, match="looks at all rows at once"):
                likeli.fit(model, data, progress=False)
        else:
            likeli.fit(model, data, steps=1, progress=False)


def test_a_sparse_matrix_of_whole_numbers_is_of_counts(written_out):
    x = cells(1000).X.astype(np.int32)
    assert likeli.load_data(x).stream is not None
    assert likeli.load_data(x.astype(float)).stream is None  # reals, as an array of such numbers
    assert likeli.load_data(x.astype(float), kind="counts").stream is not None
    assert likeli.load_data(x[:40]).stream is None
    assert likeli.load_data(x, seed=1).fingerprint() != likeli.load_data(x).fingerprint()


def test_families_that_look_at_all_rows_at_once_and_weights_are_refused(written_out):
    data = likeli.load_data(cells(1000))
    with pytest.raises(InputError, match="a family trained in batches, such as flow or vae, for rows that stay sparse"):
        likeli.fit(likeli.GMM(data.space, 2), data, progress=False)
    with pytest.raises(InputError, match="sample_weight: expected nothing for rows that stay sparse"):
        likeli.fit(likeli.VAE(data.space), data, sample_weight=np.ones(150), progress=False)


def test_a_run_on_sparse_counts_resumed_twice_is_one_that_never_stopped(tmp_path, monkeypatch, written_out):
    from likeli.training.run import Run

    data, rate = likeli.load_data(cells(1000), labels="cell_type"), Run.rate

    def run(out, stop=None):
        with monkeypatch.context() as patch:
            patch.setattr(Run, "rate", lambda run: (run.step == stop and os.kill(os.getpid(), 15)) or rate(run))
            try:
                return trained(data, out=tmp_path / out, resume=True)[0].state_dict()
            except likeli.Interrupted:
                return None

    whole = run("whole")
    assert [run("cut", 4), run("cut", 13)] == [None, None]
    cut = run("cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


# --- estimators ---------------------------------------------------------------------------------------------------------


def test_estimators_take_it_and_know_its_genes(written_out):
    given, other = cells(), cells(1000, seed=1)
    embedding = Embedding("vae", latent_dim=2, steps=20, random_state=0).fit(given)
    assert embedding.feature_names_in_.tolist() == GENES
    assert embedding.model_.space.kind() == "counts"
    plain = Embedding("vae", kind="counts", latent_dim=2, steps=20, random_state=0).fit(given.X)
    codes, dense = embedding.transform(other), other.X.todense()
    assert max(written_out[:-1]) <= 128 * 40
    assert np.array_equal(codes, plain.transform(np.asarray(dense)))
    given.X = given.layers["log"]
    of_layer = Embedding("vae", kind="counts:counts", latent_dim=2, steps=20, random_state=0).fit(given)
    assert np.array_equal(of_layer.transform(other), codes)
    with pytest.raises(ValueError, match="feature names"):
        embedding.transform(changed(var_names=pd.Index(GENES[::-1])))
    with pytest.raises(InputError, match="expected counts, whole numbers from 0"):
        embedding.transform(given)
    with pytest.raises(InputError, match="X: expected an AnnData with the layer counts, got ndarray"):
        Density("vae", kind="counts:counts").fit(np.ones((4, 40)))


def test_each_estimator_fits_counts_of_cells():
    given = cells()
    density = Density("vae", latent_dim=2, steps=20, random_state=0).fit(given)
    assert density.score_samples(given[:5]).shape == (5,)
    assert density.sample(3).shape == (3, 40)
    assert set(Outlier("vae", latent_dim=2, steps=20, random_state=0).fit(given).predict(given)) <= {-1, 1}
    classes = Classifier("vae", latent_dim=2, steps=60, random_state=0).fit(given, given.obs["cell_type"])
    assert (classes.predict(given) == given.obs["cell_type"]).mean() > 0.95

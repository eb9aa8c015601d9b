"""Files of AnnData through the commands, with the package itself: what was in a file is kept, what is added is what is said."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import likeli
from likeli.cli import main
from likeli.data.readers.h5ad import read_h5ad, write_h5ad
from likeli.evaluation.likelihood import score

anndata = pytest.importorskip("anndata", reason="the extra `anndata` is not installed; `make oldest` has it")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """cells.h5ad, with log counts in X and counts in a layer, and a run on the latter with the batch as y."""
    folder, rng = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    kind, batch = rng.integers(2, size=(2, 300))
    rate = np.exp(rng.normal(size=(2, 40)))[kind] * np.exp(rng.normal(size=(2, 40)) / 2)[batch]
    x = sparse.csr_matrix(rng.poisson(rate / 2).astype(np.float32))
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.array(["B", "T"])[kind]), "batch": np.array(["p1", "p2"])[batch], "age": batch / 3},
        index=[f"cell {i}" for i in range(300)],
    )
    adata = anndata.AnnData(x.log1p(), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    adata.layers["counts"], adata.obsm["X_pca"], adata.uns["note"] = x, rng.normal(size=(300, 2)), "kept"
    write_h5ad(folder / "cells.h5ad", adata)
    words = ["--model", "vae", "--model.latent_dim", "3", "--labels", "batch", "--layer", "counts", "--steps", "60"]
    assert main(["fit", f"{folder}/cells.h5ad", *words, "--out", f"{folder}/run", "--quiet"]) == 0
    return folder, adata


def same(a, b):
    """Whether b has all that a has."""
    assert (a.X != b.X).nnz == 0
    assert (a.layers["counts"] != b.layers["counts"]).nnz == 0
    assert list(a.obs_names) == list(b.obs_names)
    assert list(a.var_names) == list(b.var_names)
    assert np.array_equal(a.obsm["X_pca"], b.obsm["X_pca"])
    assert b.uns["note"] == "kept"
    for name in a.obs:
        assert a.obs[name].astype(object).tolist() == b.obs[name].astype(object).tolist()


def test_scores_classes_and_anomalies_come_into_obs(desk, capsys):
    folder, adata = desk
    source, out = f"{folder}/cells.h5ad", f"{folder}/scored.h5ad"
    assert main(["score", f"{folder}/run", source, "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["knows"] == "lower bound"
    found = anndata.read_h5ad(out)
    same(adata, found)
    model = likeli.load(folder / "run")
    y = [model.condition.names.index(b) for b in adata.obs["batch"]]
    truth = np.concatenate([part.value for part in score(model, likeli.load_data(adata, layer="counts").x, y)])
    assert np.allclose(found.obs["likeli_nats"], truth, atol=1e-4)
    assert found.uns["likeli"]["knows"] == "lower bound"
    assert main(["anomaly", f"{folder}/run", out, "--out", out, "--overwrite"]) == 0  # onto itself
    assert main(["classify", f"{folder}/run", out, "--out", out, "--overwrite"]) == 0
    found = anndata.read_h5ad(out)
    same(adata, found)
    added = {"likeli_nats", "likeli_stderr", "likeli_score", "likeli_flagged", "likeli_p_value", "likeli_class", "likeli_p_p1"}
    assert added <= set(found.obs)
    assert found.obs["likeli_flagged"].mean() < 0.3


def test_codes_and_means_come_into_obsm_and_layers(desk):
    folder, adata = desk
    source, model = f"{folder}/cells.h5ad", likeli.load(folder / "run")
    y = np.array([model.condition.names.index(b) for b in adata.obs["batch"]])
    z = likeli.embed(model, adata.layers["counts"], y)
    for words, decoded_as in ([], y), (["--decode-as", "p1"], np.zeros_like(y)):
        out = f"{folder}/coded{len(words)}.h5ad"
        assert main(["encode", f"{folder}/run", source, "--out", out, "--denoised", *words]) == 0
        found = anndata.read_h5ad(out)
        same(adata, found)
        assert np.allclose(found.obsm["X_likeli"], z, atol=1e-5)
        assert np.allclose(found.layers["likeli_denoised"], likeli.decode_codes(model, z, decoded_as), rtol=1e-4)
    assert main(["encode", f"{folder}/run", source, "--out", f"{folder}/codes.csv"]) == 0
    assert main(["encode", f"{folder}/run", source, "--out", f"{folder}/codes.npy"]) == 0
    assert np.allclose(pd.read_csv(folder / "codes.csv"), z, atol=1e-5)
    assert np.allclose(np.load(folder / "codes.npy"), z, atol=1e-5)


def test_samples_come_as_sparse_counts_with_genes_and_batches(desk):
    folder, _ = desk
    model = likeli.load(folder / "run")
    for words in ([], ["--label", "p2"]):
        out = f"{folder}/drawn{len(words)}.h5ad"
        assert main(["sample", f"{folder}/run", "-n", "20", "--out", out, *words]) == 0
        found = anndata.read_h5ad(out)
        assert sparse.issparse(found.X)
        assert list(found.var_names) == list(model.space.names)
        assert set(found.obs["batch"]) == ({"p2"} if words else {"p1", "p2"})
    assert np.array_equal(found.X.toarray(), model.sample(20, np.ones(20, dtype=int)))
    assert np.array_equal(likeli.load_data(found).x, found.X.toarray())  # and it is read again as counts


def test_means_are_scaled_to_one_total(desk):
    folder, _ = desk
    for words in ([], ["--total", "1000"]):
        out = f"{folder}/scaled{len(words)}.h5ad"
        assert main(["encode", f"{folder}/run", f"{folder}/cells.h5ad", "--out", out, "--denoised", *words]) == 0
    plain, scaled = (anndata.read_h5ad(f"{folder}/scaled{n}.h5ad").layers["likeli_denoised"] for n in (0, 2))
    assert np.allclose(scaled.sum(1), 1000, rtol=1e-5)
    assert np.allclose(scaled, 1000 * plain / plain.sum(1, keepdims=True), rtol=1e-4)


def test_views_and_open_files_are_read_as_what_they_show(desk):
    folder, adata = desk
    view = adata[adata.obs["cell_type"] == "T", ["g3", "g1"]]
    data = likeli.load_data(view, layer="counts")
    assert data.space.names == ("g3", "g1")
    assert np.array_equal(data.x.numpy(), view.layers["counts"].toarray())
    backed = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    truth = likeli.load_data(adata, kind="real").x
    assert np.array_equal(likeli.load_data(backed, kind="real").x, truth)
    backed.file.close()


def test_what_is_wrong_is_said_before_any_work(desk, capsys, tmp_path):
    folder, _ = desk
    source, run = f"{folder}/cells.h5ad", f"{folder}/run"
    (tmp_path / "broken.h5ad").write_bytes(b"no HDF5")
    (tmp_path / "rows.csv").write_text("g0\n1\n")
    told = {
        ("fit", source, "--model", "vae"): "expected counts, whole numbers from 0, got 1.09861",
        ("fit", source, "--model", "vae", "--layer", "count"): "layer: expected one of counts; did you mean counts?",
        ("fit", f"{tmp_path}/none.h5ad", "--model", "vae"): "neither a built-in source",
        ("load", f"{tmp_path}/broken.h5ad"): "cannot be read as .h5ad",
        ("load", source, "--columns"): "columns: expected a table, got an AnnData",
        ("score", run, f"{tmp_path}/rows.csv", "--out", f"{tmp_path}/s.h5ad"): "a .h5ad only for the rows of a .h5ad",
        ("encode", run, source, "--out", f"{tmp_path}/z.txt"): "a name that ends in .csv, .npy, .h5ad",
        ("encode", run, source, "--out", f"{tmp_path}/z.csv", "--denoised"): "denoised: expected --out FILE.h5ad",
        ("encode", run, source, "--out", f"{tmp_path}/z.h5ad", "--decode-as", "p1"): "decode-as: expected --denoised",
        ("encode", run, source, "--out", f"{tmp_path}/z.h5ad", "--denoised", "--decode-as", "p3"): "or one of p1, p2",
        ("encode", run, source, "--out", f"{tmp_path}/z.h5ad", "--total", "9"): "total: expected --denoised beside it",
        ("encode", run, source, "--out", f"{tmp_path}/z.h5ad", "--denoised", "--total", "0"): "expected a number above 0",
        ("encode", run, source, "--out", source): "a new file, or --overwrite",
    }
    for words, said in told.items():
        assert main(list(words)) == 2, words
        err = capsys.readouterr().err
        assert said in err, (words, err)
        assert "Traceback" not in err
    assert not list(tmp_path.glob("*z*"))
    assert read_h5ad(source).shape == (300, 40)


def test_large_files_stay_sparse_from_fit_to_codes(desk, monkeypatch):
    from likeli.data import annotated

    folder, adata = desk
    monkeypatch.setattr(annotated, "CELLS_OF_A_PART", 2000)
    monkeypatch.setattr(annotated, "CELLS_AT_ONCE", 2000)
    source = f"{folder}/cells.h5ad"
    words = ["fit", source, "--model", "vae", "--labels", "batch", "--layer", "counts", "--out", f"{folder}/large", "--quiet"]
    assert main([*words, "--steps", "5"]) == 0
    assert main(["evaluate", f"{folder}/large", "--quiet"]) == 0
    for verb in ("score", "encode"):
        assert main([verb, f"{folder}/large", source, "--out", f"{folder}/large-{verb}.h5ad"]) == 0
    found = [anndata.read_h5ad(f"{folder}/large-{verb}.h5ad") for verb in ("score", "encode")]
    assert found[0].obs["likeli_nats"].notna().all()
    model = likeli.load(folder / "large")
    y = [model.condition.names.index(b) for b in adata.obs["batch"]]
    assert np.allclose(found[1].obsm["X_likeli"], likeli.embed(model, adata.layers["counts"], y), atol=1e-5)

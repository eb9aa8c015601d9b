"""Pictures that stay in files: the rows of a folder that is read whole, in an exact order, each as it was when first read."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

import likeli
from likeli.cli import main
from likeli.data import load_rows
from likeli.errors import InputError
from likeli.training.batches import gather


def pictures(n, size=8, channels=None, seed=0):
    """Blobs of one hue: neighbours are alike, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    shape = (n, size, size, channels) if channels else (n, size, size)
    return (rng.integers(0, 200, (n,) + (1,) * (len(shape) - 1)) + rng.integers(0, 50, shape)).astype(np.uint8)


def written(folder, x, classes=("a", "b", "c"), suffixes=(".png",)):
    """One file a picture, classes in turn; returns the rows in the order of their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, picture in enumerate(x):
        below = folder / classes[i % len(classes)] if classes else folder
        below.mkdir(parents=True, exist_ok=True)
        paths.append(below / f"{i:04}{suffixes[i % len(suffixes)]}")
        Image.fromarray(picture).save(paths[-1])
    return x[sorted(range(len(x)), key=lambda i: paths[i])]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("likeli.data.stream.CELLS_OF_A_WINDOW", 500)  # of 8 bytes: 62 pictures of 8 x 8
    monkeypatch.setattr("likeli.data.picture_stream.MOST_OF_A_BLOCK", 7)
    monkeypatch.setattr("likeli.data.picture_stream.BYTES_OF_THE_SAMPLE", 64 * 100)
    monkeypatch.setattr("likeli.data.picture_stream.FEWEST_SAMPLED", 100)
    monkeypatch.setattr("likeli.data.picture_stream.BYTES_AT_ONCE", 64 * 90)


def epoch_of(data, epoch, batch=32, seed=0):
    train, _ = gather(likeli.VAE(data.space, latent_dim=2, condition=data.condition), data)
    rows = train.shuffled(seed, epoch)
    parts = [rows(slice(i, min(i + batch, len(train)))) for i in range(0, len(train), batch)]
    y = [y for _, y in parts if y is not None]
    return torch.cat([x for x, _ in parts]), torch.cat(y) if y else None


def sorted_rows(x):
    return x.reshape(len(x), -1)[np.lexsort(x.reshape(len(x), -1).T)]


@pytest.mark.usefixtures("small_blocks")
def test_an_epoch_is_all_training_rows_once_in_an_order_of_its_own(tmp_path):
    x = written(tmp_path / "all", pictures(400))
    data = likeli.load_data(str(tmp_path / "all"), stream=1, seed=3)
    train = data.stream.split.parts(0, len(x))[0] == 0
    assert len(data.stream) == train.sum()
    assert 60 < len(data) < 250  # a sample
    first, y = epoch_of(data, 0)
    again, other = epoch_of(data, 0)[0], epoch_of(data, 1)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for epoch in (first, other):
        np.testing.assert_array_equal(sorted_rows(epoch.numpy()), sorted_rows(x[train]))
    known = {row.tobytes(): i for i, row in enumerate(x)}
    place = np.array([known[row.numpy().tobytes()] for row in first])
    assert y.tolist() == np.searchsorted([134, 267], place, "right").tolist()  # 134 of class a, 133 of b and c
    assert (np.diff(place) == 1).mean() < 0.05
    assert abs(np.corrcoef(place, np.arange(len(place)))[0, 1]) < 0.5
    rows, whole = gather(likeli.VAE(data.space, latent_dim=2), data)[0], epoch_of(data, 2)[0]
    for start, stop in ((290, 291), (17, 250), (len(whole) - 1, len(whole))):
        assert torch.equal(rows.shuffled(0, 2)(slice(start, stop))[0], whole[start:stop])


FORMS = {
    "grey": (pictures(60), {}),
    "colour": (pictures(60, channels=3), {}),
    "colours that are grey": (np.repeat(pictures(60)[..., None], 3, -1), {}),
    "black and white": (pictures(60) % 2 * 255, {}),
    "transparent": (pictures(60, channels=4), {}),
    "scaled": (pictures(60, 12, channels=3), {"size": 8}),
    "as reals": (pictures(60), {"kind": "real"}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("small_blocks")
def test_rows_are_those_of_a_folder_that_is_read_whole(tmp_path, form):
    x, options = FORMS[form]
    written(tmp_path / "all", x)
    whole, kept = (likeli.load_data(str(tmp_path / "all"), stream=s, fractions=(1, 0, 0), **options) for s in (0, 1))
    assert str(kept.space) == str(whole.space)
    assert kept.condition.names == whole.condition.names == ("a", "b", "c")
    for known in whole.warnings:
        assert known in kept.warnings
    found, y = epoch_of(kept, 0)
    order = np.lexsort(found.flatten(1).numpy().T)
    like = np.lexsort(whole.x.flatten(1).numpy().T)
    np.testing.assert_array_equal(found.numpy()[order], whole.x.numpy()[like])
    assert y[order].tolist() == whole.y[like].tolist()
    known = {"condition": whole.condition}
    limit = {"stream": 1} | ({"size": 8} if "size" in options else {})
    source = str(tmp_path / "all") + ":" + ",".join(f"{k}={v}" for k, v in limit.items())
    scored, labels = load_rows(source, whole.space, **known)
    assert torch.equal(scored, whole.x)
    assert torch.equal(labels, whole.y)


def test_grey_pictures_among_coloured_ones(tmp_path):
    written(tmp_path / "all", pictures(30, channels=3), classes=("colour",))
    written(tmp_path / "all", pictures(30, seed=1), classes=("grey",))
    whole, kept = (likeli.load_data(str(tmp_path / "all"), stream=s, fractions=(1, 0, 0)) for s in (0, 1))
    assert kept.space.shape == whole.space.shape == (3, 8, 8)
    np.testing.assert_array_equal(sorted_rows(epoch_of(kept, 0)[0].numpy()), sorted_rows(whole.x.numpy()))
    whole, kept = (likeli.load_data(str(tmp_path / "all"), stream=s, kind="real", fractions=(1, 0, 0)) for s in (0, 1))
    np.testing.assert_allclose([kept.space.mean, kept.space.scale], [whole.space.mean, whole.space.scale], rtol=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_parts_of_a_folder_stay_apart(tmp_path):
    parts = {part: pictures(n, seed=i) for i, (part, n) in enumerate([("test", 50), ("train", 300), ("val", 60)])}
    rows = {part: written(tmp_path / "all" / part, x) for part, x in parts.items()}
    data = likeli.load_data(str(tmp_path / "all"), stream=1)
    np.testing.assert_array_equal(sorted_rows(epoch_of(data, 0)[0].numpy()), sorted_rows(rows["train"]))
    for part, folder in (("valid", "val"), ("test", "test")):
        known = {row.tobytes() for row in rows[folder]}
        sample = data.split(part)[0]
        assert len(sample) > 10
        assert all(row.numpy().tobytes() in known for row in sample)


def test_what_is_small_is_read_whole_and_what_is_large_is_not(tmp_path, monkeypatch):
    written(tmp_path / "all", pictures(40))
    source = str(tmp_path / "all")
    assert likeli.load_data(source).stream is None
    before = likeli.load_data(source).describe()
    monkeypatch.setattr("likeli.data.in_files.LARGEST_IN_MEMORY", 40 * 64 - 1)
    data = likeli.load_data(source)
    assert len(data.stream) > 0
    assert "40 pictures in 40 files stay there" in data.warnings[-1]
    assert likeli.data.rebuild(data.describe()).fingerprint() == data.fingerprint()
    assert likeli.data.rebuild(before).stream is None  # a run that was fitted when these were in memory
    assert likeli.load_data(source, labels=np.arange(40) % 2).stream is None
    beside = {"labels": np.arange(40) % 2, "stream": 1}
    for asked, told in ((beside, "labels beside option stream=1"), ({"stream": 2}, "0 or 1")):
        with pytest.raises(InputError, match=told):
            likeli.load_data(source, **asked)
    with pytest.raises(InputError, match="a family trained in batches"):
        likeli.fit(likeli.GMM(data.space, 2), data, progress=False)


@pytest.mark.usefixtures("small_blocks")
def test_a_run_resumed_twice_has_the_losses_and_weights_of_one_that_never_stopped(tmp_path, monkeypatch):
    from likeli.training.run import Run

    written(tmp_path / "all", pictures(300))
    rate = Run.rate

    def run(out, stop=None):
        data = likeli.load_data(str(tmp_path / "all"), stream=1)

        def stopping(self):
            if self.step == stop:
                os.kill(os.getpid(), 15)
            return rate(self)

        monkeypatch.setattr(Run, "rate", stopping)
        torch.manual_seed(0)
        model = likeli.VAE(data.space, latent_dim=2, condition=data.condition)
        try:
            likeli.fit(model, data, steps=18, batch=32, log_every=1, out=out, resume=True, progress=False)
        except likeli.Interrupted:
            pass
        finally:
            monkeypatch.setattr(Run, "rate", rate)
        return model

    whole = run(tmp_path / "whole")
    for stop in (4, 12, None):  # within the first epoch of 7 batches, and within the second
        cut = run(tmp_path / "cut", stop)
    rows = [pd.read_json(tmp_path / name / "history.jsonl", lines=True, precise_float=True) for name in ("whole", "cut")]
    assert rows[0].drop(columns="seconds").equals(rows[1].drop(columns="seconds"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), cut.state_dict().values()))


@pytest.mark.usefixtures("small_blocks")
def test_pictures_are_scored_part_by_part(tmp_path, capsys):
    written(tmp_path / "all", pictures(200))
    source, run = str(tmp_path / "all"), str(tmp_path / "run")
    assert main(["fit", f"{source}:stream=1", "--labels", "--model", "vae", "--steps", "5", "--out", run, "--quiet"]) == 0
    for name, rows in (("many", f"{source}:stream=1"), ("one", source)):
        assert main(["score", run, rows, "--out", str(tmp_path / f"{name}.csv"), "--likelihood.samples", "2"]) == 0
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert main(["evaluate", run, "--quiet"]) == 0
    capsys.readouterr()
    Image.fromarray(pictures(1, 9)[0]).save(tmp_path / "all" / "a" / "0003.png")
    assert main(["score", run, f"{source}:stream=1", "--out", str(tmp_path / "no.csv")]) == 2
    assert "0003.png: expected 8 x 8 pixels, grey, got 9 x 9 pixels, grey" in capsys.readouterr().err
    Image.fromarray(pictures(1)[0]).save(tmp_path / "all" / "a" / "0003.png")
    truncate(tmp_path / "all" / "a" / "0003.png")
    assert main(["score", run, f"{source}:stream=1", "--out", str(tmp_path / "no.csv")]) == 2
    assert "0003.png: is not a picture (PNG" in capsys.readouterr().err
    assert not (tmp_path / "no.csv").exists()


CAPTIONS = [f"a {('small', 'large', 'very large')[i % 3]} {('dog', 'cat')[i % 2]}" if i % 7 else "" for i in range(200)]


@pytest.mark.usefixtures("small_blocks")
def test_captions_go_with_their_pictures_as_of_a_folder_that_is_read_whole(tmp_path, capsys):
    x = pictures(200)
    written(tmp_path / "all", x)
    lines = [f"{i:04}.png,{text}\n" for i, text in enumerate(CAPTIONS)]
    (tmp_path / "all" / "captions.csv").write_text("file,caption\n" + "".join(lines))
    source, run = str(tmp_path / "all"), str(tmp_path / "run")
    whole, kept = (likeli.load_data(source, labels="captions", stream=s, fractions=(1, 0, 0)) for s in (0, 1))
    assert len(kept.stream) == 200
    assert kept.condition == whole.condition or str(kept.condition) == str(whole.condition)
    assert all(note in kept.warnings for note in whole.warnings)
    assert "29 of 200 pictures have no caption" in " ".join(kept.warnings)
    model = likeli.VDM(kept.space, likeli.DenoiserBackbone(network="mlp", hidden=(8,), condition_dropout=0.1),
                       condition=kept.condition)  # fmt: skip
    rows = gather(model, kept)[0].shuffled(0, 0)
    found, y = (torch.cat(t) for t in zip(*(rows(slice(i, i + 40)) for i in range(0, 200, 40))))
    order, like = np.lexsort(found.flatten(1).numpy().T), np.lexsort(whole.x.flatten(1).numpy().T)
    np.testing.assert_array_equal(found.numpy()[order], whole.x.numpy()[like])
    assert torch.equal(y[order], whole.y[like])
    words = ["--labels", "captions", "--model", "vdm", "--model.backbone.network", "mlp", "--model.backbone.hidden", "8"]
    assert main(["fit", f"{source}:stream=1", *words, "--steps", "5", "--out", run, "--quiet"]) == 0
    for name, rows in (("many", f"{source}:stream=1"), ("one", source)):
        assert main(["score", run, rows, "--out", str(tmp_path / f"{name}.csv"), "--likelihood.samples", "2"]) == 0
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    (tmp_path / "all" / "captions.csv").write_text("".join(lines[1:]) + "0000.png,a dog\n")
    with pytest.raises(InputError, match="other rows: the source has changed"):
        likeli.data.rebuild(kept.describe())
    (tmp_path / "all" / "captions.csv").unlink()
    capsys.readouterr()
    for verb in (["score", run, f"{source}:stream=1", "--out", str(tmp_path / "no.csv")], ["fit", "--resume", "--out", run]):
        assert main(verb) == 2
        assert "labels: expected captions.csv or captions.txt in" in capsys.readouterr().err
    assert main(["score", run, f"{source}:stream=1", "--out", str(tmp_path / "label.csv"), "--label", "a large cat"]) == 0


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def test_every_faulty_file_is_named_in_one_line_before_any_work(tmp_path, capsys):
    written(tmp_path / "all", pictures(60))
    truncate(tmp_path / "all" / "a" / "0003.png")
    (tmp_path / "all" / "b" / "0004.png").write_bytes(b"nothing of a picture")
    Image.fromarray(pictures(1, 9)[0]).save(tmp_path / "all" / "c" / "0005.png")
    (tmp_path / "all" / "b" / "0007.png").write_bytes(b"")
    words = ["fit", f"{tmp_path / 'all'}:stream=1", "--model", "vae", "--steps", "5", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "4 of 60 pictures cannot be used" in lines[0]
    assert "0005.png: expected 8 x 8 pixels, grey, as the first, got 9 x 9 pixels, grey; size=9 scales and crops" in lines[0]
    assert all(f"{name}.png: " in lines[0] for name in ("0003", "0004", "0007"))
    assert not (tmp_path / "run").exists()
    for path in (tmp_path / "all").rglob("*.png"):
        path.write_bytes(b"nothing")
    assert main(words) == 2
    assert "60 of 60 pictures cannot be used" in (told := capsys.readouterr().err)
    assert "; and 50 more" in told


@pytest.mark.parametrize("how, told", [("changed", "the picture that it was"), ("truncated", "damaged"), ("gone", "No such")])
def test_a_picture_that_changes_between_epochs_ends_the_run_with_one_line(tmp_path, capsys, monkeypatch, how, told):
    from likeli.training.run import Run

    written(tmp_path / "all", pictures(100))
    data = likeli.load_data(str(tmp_path / "all"), stream=1)
    row = int(np.flatnonzero(data.stream.split.parts(0, 100)[0] == 0)[5])
    path, run, rate = data.stream.pictures.listing.path(row), str(tmp_path / "run"), Run.rate
    facts = path.stat()

    def changing(self):
        if self.step == 6 and how == "changed":  # in place: neither its length nor its time tells
            path.write_bytes(path.read_bytes())
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        elif self.step == 6:
            truncate(path) if how == "truncated" else path.unlink()
        return rate(self)

    monkeypatch.setattr(Run, "rate", changing)
    words = ["fit", f"{tmp_path / 'all'}:stream=1", "--model", "vae", "--steps", "40", "--train.batch", "20", "--out", run]
    assert main([*words, "--train.checkpoint_every", "0", "--quiet"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert path.name in line
    assert told in line
    assert likeli.load(run).kind() == "vae"
    monkeypatch.setattr(Run, "rate", rate)
    assert main(["fit", "--resume", "--out", run, "--quiet"]) == 2
    assert how != "changed" or "expected the rows that the run was fitted on" in capsys.readouterr().err


# --- the hub ----------------------------------------------------------------------------------------------------------------


INSTALLED = importlib.util.find_spec("datasets") is not None


class Stand:
    """What is used of a `datasets.Dataset` that lies on disk, over one Arrow file of packed pictures or of columns."""

    def __init__(self, path, rows=None):
        with pa.memory_map(str(path / "data.arrow")) as file:
            table = pa.ipc.open_file(file).read_all()
        self.table = table if rows is None else table.slice(rows.start, len(rows))
        self.path, self.column_names = path, table.column_names
        self.cache_files = [{"filename": str(path / "data.arrow")}]
        label = types.new_class("ClassLabel")()
        label.names = ["even", "odd"]
        self.features = {name: object() for name in table.column_names}
        self.features |= {"image": types.new_class("Image")(), "label": label} if "image" in self.features else {}

    def __len__(self):
        return len(self.table)

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.table[key].to_pylist()
        (row,) = self.table.slice(key, 1).to_pylist()
        return row | {"image": Image.open(pa.BufferReader(row["image"]))}

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def select(self, rows):
        return Stand(self.path, rows)

    def to_pandas(self):
        return self.table.to_pandas()


def stored(folder, columns):
    """A data set on disk as `datasets` stores it, or its stand-in where the library is not installed."""
    if not INSTALLED:
        folder.mkdir()
        (folder / "state.json").write_text("{}")
        columns = {k: [packed(v) for v in vs] if k == "image" else vs for k, vs in columns.items()}
        table = pa.table(columns)
        with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table)
        return
    import datasets

    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    known = {k: kinds.get(k, datasets.Value("float64")) for k in columns}
    datasets.Dataset.from_dict(dict(columns), features=datasets.Features(known)).save_to_disk(str(folder))


def packed(picture):
    out = pa.BufferOutputStream()
    with pa.PythonFile(out) as file:
        picture.save(file, "PNG")
        return out.getvalue().to_pybytes()


@pytest.fixture
def hub(monkeypatch):
    """`datasets`, or what is used of it."""
    if not INSTALLED:
        module = types.ModuleType("datasets")
        module.load_from_disk = lambda path: Stand(Path(path))
        monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.usefixtures("hub", "small_blocks")
@pytest.mark.parametrize("channels", [None, 3])
def test_pictures_of_the_hub_that_lie_on_disk(tmp_path, channels):
    x = pictures(200, channels=channels)
    images = [Image.fromarray(picture) for picture in x]
    stored(tmp_path / "set", {"image": images, "label": [i % 2 for i in range(200)]})
    source = f"hf:{tmp_path / 'set'}"
    whole, kept = (likeli.load_data(f"{source}:stream={s}", fractions=(1, 0, 0)) for s in (0, 1))
    assert whole.stream is None
    assert str(kept.space) == str(whole.space)
    assert kept.condition.names == whole.condition.names == ("even", "odd")
    found, y = epoch_of(kept, 1)
    order, like = np.lexsort(found.flatten(1).numpy().T), np.lexsort(whole.x.flatten(1).numpy().T)
    np.testing.assert_array_equal(found.numpy()[order], whole.x.numpy()[like])
    assert y[order].tolist() == whole.y[like].tolist()
    scored, labels = load_rows(f"{source}:stream=1", whole.space, condition=whole.condition)
    assert torch.equal(scored, whole.x)
    assert torch.equal(labels, whole.y)
    assert likeli.data.rebuild(kept.describe()).fingerprint() == kept.fingerprint()
    images[7] = Image.fromarray(pictures(1, 9, channels)[0])
    stored(tmp_path / "odd", {"image": images, "label": [0] * 200})
    with pytest.raises(InputError, match=r"row 7: expected 8 x 8 pixels.*got 9 x 9 pixels"):
        likeli.load_data(f"hf:{tmp_path / 'odd'}:stream=1")


@pytest.mark.usefixtures("hub")
def test_a_table_of_the_hub_that_lies_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("likeli.data.readers.hub.CELLS_OF_A_HUB_BLOCK", 300)
    monkeypatch.setattr("likeli.data.in_files.LARGEST_IN_MEMORY", 1000)
    rng = np.random.default_rng(0)
    stored(tmp_path / "set", {name: rng.normal(size=1000).tolist() for name in "ab"})
    source = f"hf:{tmp_path / 'set'}"
    whole, kept = likeli.load_data(f"{source}:stream=0"), likeli.load_data(source)
    assert whole.stream is None
    model = likeli.Flow(kept.space)
    train, _ = gather(model, kept)
    x = train.shuffled(0, 0)(slice(0, len(train)))[0]
    of = kept.stream.split.parts(0, 1000)[0] == 0
    np.testing.assert_array_equal(sorted_rows(x.numpy()), sorted_rows(whole.x.numpy()[of]))
    np.testing.assert_allclose(kept.space.mean, whole.x.numpy()[of].mean(0), rtol=1e-12, atol=1e-15)
    assert torch.equal(load_rows(source, kept.space)[0], whole.x)
    (file,) = kept.stream.table.marks
    os.utime(file, ns=(0, 0))
    with pytest.raises(InputError, match="expected the file as it was when its rows were first read"):
        train.shuffled(0, 1)(slice(0, 5))


# --- memory -----------------------------------------------------------------------------------------------------------------

USES = {
    "fit": "data = likeli.load_data(source); likeli.fit(likeli.VAE(data.space), data, steps=60, progress=False, out=run)",
    "score": "main(['score', run, source, '--out', run + '.csv', '--likelihood.samples', '1', '--json'])",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_pictures(tmp_path, record_property):
    found = {}
    for n in (4000, 20_000):
        written(tmp_path / str(n), pictures(n, 32), [f"{i:02}" for i in range(20)])
        for use, line in USES.items():
            script = f"""
import resource, sys
import PIL.Image, pandas, torch, likeli
from likeli.cli import main
source, run = sys.argv[1] + ":stream=1", sys.argv[2]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
base = peak()
{line}
print(peak() - base)
"""
            words = [sys.executable, "-c", script, str(tmp_path / str(n)), str(tmp_path / f"run{n}")]
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(words, capture_output=True, text=True, timeout=800, env=env, check=True)
            found[use, n] = float(done.stdout.split()[-1])
    record_property("figure", ", ".join(f"{use} of {n:,} pictures {mib:.0f} MiB" for (use, n), mib in found.items()))
    for use in USES:  # 16,000 more of a KiB each, of which up to 16 MiB, four times over, are the sample
        assert found[use, 20_000] < found[use, 4000] + (80 if use == "fit" else 24), found

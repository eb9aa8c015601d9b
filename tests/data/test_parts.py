"""MNIST as people have it, folders of pictures of any size: the file's own test part is the split's, what is done is said."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

import likeli
from likeli.cli.app import main
from likeli.data import load_rows, rebuild
from likeli.errors import InputError

RNG = np.random.default_rng(0)
X = {"train": RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8), "test": RNG.integers(0, 256, (10, 6, 5), dtype=np.uint8)}
Y = {"train": np.arange(40) % 10, "test": np.arange(10)}


def idx(array, code=8):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def is_mnist(data):
    """The test part is the file's, row by row; the validation rows come out of the training part."""
    x, y = data.split("test")
    assert np.array_equal(x.numpy(), X["test"]) and np.array_equal(y.numpy(), Y["test"])
    rest = torch.cat([data.train, data.valid]).sort().values
    assert rest.tolist() == list(range(40)) and len(data.valid) == 4
    assert np.array_equal(data.x[:40].numpy(), X["train"]) and np.array_equal(data.y[:40].numpy(), Y["train"])
    assert any("its own test part (10 rows) is kept" in w for w in data.warnings)
    assert not torch.equal(data.valid, likeli.load_data(data.origin["source"], seed=1).valid)
    assert torch.equal(rebuild(data.describe()).train, data.train)


@pytest.mark.parametrize("name", ["{role}_{part}", "{part}_{role}"])
@pytest.mark.parametrize("roles", [("x", "y"), ("images", "labels"), ("X", "Y"), ("data", "targets")])
def test_an_archive_of_parts(name, roles, tmp_path):
    arrays = {name.format(role=role, part=part): a[part] for role, a in zip(roles, (X, Y)) for part in X}
    np.savez(tmp_path / "m.npz", **arrays)
    is_mnist(likeli.load_data(tmp_path / "m.npz"))


def test_labels_in_a_column_and_a_validation_part(tmp_path):
    """As MedMNIST has them: three parts and labels of shape (n, 1)."""
    more = {"val_images": X["test"][:6], "val_labels": Y["test"][:6, None]}
    arrays = {f"{p}_images": X[p] for p in X} | {f"{p}_labels": Y[p][:, None] for p in Y} | more
    np.savez(tmp_path / "m.npz", **arrays)
    data = likeli.load_data(tmp_path / "m.npz")
    assert [len(data.rows(p)) for p in ("train", "valid", "test")] == [40, 6, 10]
    for part, truth in (("valid", X["test"][:6]), ("test", X["test"])):
        assert np.array_equal(data.split(part)[0].numpy(), truth)
    assert data.y.shape == (56,)
    np.savez(tmp_path / "m.npz", train=X["train"], valid=X["test"][:6], test=X["test"])
    assert [len(likeli.load_data(tmp_path / "m.npz").rows(p)) for p in ("train", "valid", "test")] == [40, 6, 10]
    np.savez(tmp_path / "n.npz", x_train=X["train"], y_train=Y["train"][:9], x_test=X["test"], y_test=Y["test"])
    with pytest.raises(InputError, match="a label for every row"):
        likeli.load_data(tmp_path / "n.npz")
    np.savez(tmp_path / "o.npz", x_train=X["train"], x_test=X["test"][:, :5])
    with pytest.raises(InputError, match="parts of one shape"):
        likeli.load_data(tmp_path / "o.npz")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", ["{}-images-idx3-ubyte", "{}-images.idx3-ubyte"])
def test_idx_files_and_their_folder(packed, names, tmp_path):
    for part, word in (("train", "train"), ("test", "t10k")):
        name = names.format(word)
        for file, array in ((name, X[part]), (name.replace("images", "labels").replace("idx3", "idx1"), Y[part].astype("u1"))):
            content = idx(array)
            (tmp_path / (file + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    first = tmp_path / (names.format("train") + ".gz" * packed)
    is_mnist(likeli.load_data(tmp_path))
    is_mnist(likeli.load_data(first))
    alone = likeli.load_data(tmp_path / (names.format("t10k") + ".gz" * packed))
    assert np.array_equal(alone.x.numpy(), X["test"]) and not any("own" in w for w in alone.warnings)
    x, _ = load_rows(first, alone.space)
    assert len(x) == 50


@pytest.mark.parametrize("content, words", [
    (b"", "empty"),
    (b"hello, idx", "expected an IDX file"),
    (idx(X["test"])[:-1], "is truncated"),
    (idx(X["test"]) + b"1", "bytes left over"),
    (gzip.compress(idx(X["test"]))[:-20], "damaged|truncated"),
    (idx(X["test"])[:9], "whole header"),
    (bytes([0, 0, 8, 3]) + b"\xff" * 12, "half of memory"),
    (gzip.compress(idx(X["test"])[:16] + bytes(10**7)), "bytes left over"),
])  # fmt: skip
def test_idx_files_that_are_none(content, words, tmp_path):
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        likeli.load_data(path)


def test_wider_types_are_read_most_significant_byte_first(tmp_path):
    values = np.linspace(-3, 3, 24).reshape(8, 3)
    for code, dtype in ((0x0D, ">f4"), (0x0E, ">f8"), (0x0B, ">i2"), (0x0C, ">i4")):
        (tmp_path / "rows-idx2-x").write_bytes(idx(values.astype(dtype), code))
        data = likeli.load_data(tmp_path / "rows-idx2-x", kind="real")
        assert np.array_equal(data.x.double().numpy(), values.astype(dtype).astype(float))


def picture(path, size, value=None, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(array if value is None else np.full_like(array, value)).save(path, **options)
    return array


def test_folders_of_parts_and_classes(tmp_path):
    for part, n in (("train", 12), ("val", 3), ("test", 4)):
        for i in range(n):
            picture(tmp_path / part / ("cat" if i % 2 else "dog") / f"{i:02}.png", (4, 4), seed=i + 100 * n)
    data = likeli.load_data(tmp_path)
    assert [len(data.rows(p)) for p in ("train", "valid", "test")] == [12, 3, 4]
    assert data.condition.names == ("cat", "dog")
    assert data.split("test")[1].tolist() == [0, 0, 1, 1]
    assert any("validation part (3 rows) and test part (4 rows)" in w for w in data.warnings)


def test_odd_sizes_are_scaled_and_cropped_with_a_word(tmp_path, capsys):
    """A ramp keeps its middle; the file in the right size keeps its bits; without `size` the refusal names it."""
    kept = picture(tmp_path / "a.png", (8, 8))
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (16, 1))  # 48 wide, 16 high, 5 levels a pixel
    Image.fromarray(ramp).save(tmp_path / "b.png")
    picture(tmp_path / "c.png", (4, 6))
    with pytest.raises(InputError, match=r"b\.png: expected 8 x 8 pixels as a\.png, got 48 x 16; size=8 scales and crops"):
        likeli.load_data(tmp_path)
    data = likeli.load_data(tmp_path, size=8)
    assert data.space.shape == (8, 8) and np.array_equal(data.x[0].numpy(), kept)
    middle = np.arange(16, 32, 2) * 5 + 2.5  # pairs of columns of the middle third
    assert np.abs(data.x[1].double().numpy() - middle).max() <= 1.5
    told = "2 of 3 pictures (4 x 6 to 48 x 16) were scaled to 8 x 8, 1 of them enlarged, 2 cropped to their middle"
    assert any(told in w for w in data.warnings)
    assert torch.equal(likeli.load_data(f"{tmp_path}:size=8").x, data.x)
    assert torch.equal(rebuild(data.describe()).x, data.x)
    words = ["fit", str(tmp_path), "--model", "independent", "--size", "8", "--quiet", "--out", str(tmp_path / "run")]
    assert main(words) == 0 and told in capsys.readouterr().err
    for wrong in (0, "wide", 10**6):
        with pytest.raises(InputError, match="size"):
            likeli.load_data(tmp_path, size=wrong)


def test_turned_pictures_are_as_a_viewer_shows_them(tmp_path):
    array = RNG.integers(0, 256, (4, 6), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by a quarter, clockwise
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.rot90(array, -1)).save(tmp_path / "b.png")
    picture(tmp_path / "c.png", (4, 6))
    data = likeli.load_data(tmp_path)
    assert data.space.shape == (6, 4) and torch.equal(data.x[0], data.x[1])


def test_one_bit_palette_and_grey_are_one_kind(tmp_path):
    """The same black-and-white rows as a 1-bit file, a palette, grey levels and colours: binary, the same bits, said."""
    found = []
    for mode in ("1", "P", "L", "RGB"):
        for i in range(6):
            (tmp_path / mode).mkdir(exist_ok=True)
            bits = np.random.default_rng(i).integers(0, 2, (4, 4), dtype=np.uint8)
            Image.fromarray(bits * 255).convert(mode).save(tmp_path / mode / f"{i}.png")
        data = likeli.load_data(tmp_path / mode)
        assert data.kind == "binary" and any("black and white were taken as binary" in w for w in data.warnings)
        found.append(data.x)
    assert all(torch.equal(found[0], x) for x in found) and found[0].max() == 1

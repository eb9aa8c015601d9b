"""Labels that some rows lack, and captions of a user's own pictures, from the file to the network."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import likeli
from likeli.cli.app import main
from likeli.errors import InputError
from likeli.nn.embedding import null_of
from likeli.spaces.labels import unlabelled
from likeli.training import fit

HOLED = ["u", "v", None, "u", "", "v", "v", "u", "u", "v", "u", "v"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b,y\n" + "".join(f"{i}.5,{i * i}.25,{y or ''}\n" for i, y in enumerate(HOLED)))
    return path


def test_a_missing_label_is_minus_one_and_is_told(table):
    data = likeli.load_data(table, labels="y", kind="real")
    assert data.y.tolist() == [-1 if not y else "uv".index(y) for y in HOLED]
    assert data.condition.names == ("u", "v")
    assert any("none in 2 of 12 rows, the first at line 4" in told for told in data.warnings)
    x = torch.randn(4, 3)
    by_array = likeli.load_data(x, labels=np.array([1.0, math.nan, 0.0, 1.0]))
    assert by_array.y.tolist() == [1, -1, 0, 1]
    assert likeli.load_data(x, labels=[None, "b", float("nan"), "a"]).y.tolist() == [-1, 1, -1, 0]


def test_numbers_that_are_names_stay_names_beside_gaps(tmp_path):
    (tmp_path / "d.csv").write_text("a,y\n" + "".join(f"{i}.5,{y}\n" for i, y in enumerate(["7", "404", "", "7"])))
    data = likeli.load_data(tmp_path / "d.csv", labels="y")
    assert (data.condition.names, data.y.tolist()) == (("404", "7"), [1, 0, -1, 1])


def test_rows_without_a_label_train_the_null_token(table):
    """The loss of a row with −1 is that of the same row with its y hidden, and the shares are those of the labels."""
    data = likeli.load_data(table, labels="y", kind="real")
    with likeli.seeded(0, "weights"):
        model = likeli.FlowMatching(data.space, hidden=(8,), condition=data.condition)
    fit(model, data, steps=20, progress=False)
    x, y = data.split("train")
    gone = unlabelled(model.condition, y)
    torch.manual_seed(0)
    mixed = model.eval().loss(x, y)
    torch.manual_seed(0)
    hidden = model.loss(x, null_of(y))
    assert gone.any()
    assert torch.allclose(mixed[gone], hidden[gone], rtol=1e-6)
    assert not torch.isclose(mixed[~gone], hidden[~gone], rtol=1e-6).any()
    ones = (y == 1).sum().item() / (y >= 0).sum().item()
    assert model.condition.shares[1] == pytest.approx(ones)
    by_hand = likeli.FlowMatching(data.space, hidden=(8,), condition=likeli.Labels(2))
    fit(by_hand, x, y.double().masked_fill(gone, math.nan), steps=1, progress=False)


@pytest.mark.parametrize("family", ["VAE", "Flow", "Autoregressive"])
def test_a_family_without_a_null_refuses_in_one_line(table, family):
    data = likeli.load_data(table, labels="y", kind="real")
    model = getattr(likeli, family)(data.space, condition=data.condition)
    with pytest.raises(InputError, match=r"y: expected a label in every row, got none at row \d+ \(\d such rows\), which"):
        fit(model, data, steps=1, progress=False)
    sure = likeli.FlowMatching(data.space, condition_dropout=0.0, hidden=(8,), condition=data.condition)
    with pytest.raises(InputError, match="condition_dropout above 0"):
        fit(sure, data, steps=1, progress=False)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(["more/a.png", "more/b.png", "more/c.png", "more/d.png"]):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)).save(folder / name)
    return folder


def test_captions_of_a_folder_condition_a_model(pictures, capsys):
    text = 'file,caption\nb.png,"A red, round thing"\nmore/a.png,two blue things, tall\na.png,again\nc.png,red\n'
    (pictures / "captions.csv").write_text(text)
    data = likeli.load_data(pictures, labels="captions", fractions=(1.0, 0.0, 0.0))
    assert data.extras["captions"] == ["two blue things, tall", "A red, round thing", "red", ""]
    assert data.condition.decode(data.y) == ["two blue things tall", "a red round thing", "red", ""]
    assert unlabelled(data.condition, data.y).tolist() == [False, False, False, True]
    told = " ".join(data.warnings)
    assert "1 of 4 pictures have no caption" in told
    assert "1 lines are of pictures that have a caption" in told
    run = pictures.parent / "run"
    words = ["--model", "flow_matching", "--model.network", "mlp", "--model.hidden", "8", "--steps", "2", "--quiet"]
    assert main(["fit", str(pictures), "--labels", "captions", *words, "--out", str(run)]) == 0
    asked = ["sample", str(run), "--text", "red thing", "--guidance", "2", "--steps", "2", "-n", "2"]
    assert main([*asked, "--out", str(pictures.parent / "x.png")]) == 0
    assert main([*asked[:3], "green thing", "-n", "1", "--out", str(pictures.parent / "y.png")]) == 2
    assert "unknown word 'green'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("captions.txt", "a.png,one\ne.png,two\n", "captions.txt: line 2: expected a picture of the folder"),
        ("captions.txt", "a.png\n", "captions.txt: line 1: expected file,caption, got a.png"),
        ("captions.tsv", "a.png\t\n", "captions of the folder's pictures, got none"),
        ("captions.csv", b"a.png,\xff\n", "lines of text in UTF-8"),
        ("words.txt", "a.png,one\n", "labels: expected captions.csv or captions.txt in"),
    ],
)
def test_bad_captions_are_one_line(pictures, name, text, said):
    (pictures / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        likeli.load_data(pictures, labels="captions")
    assert said in str(error.value)
    assert "\n" not in str(error.value)

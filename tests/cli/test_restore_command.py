"""`likeli restore`: what it writes fits what it was given, and what does not fit is refused in one line before any work."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import likeli
from likeli.cli import main
from likeli.diffusion.restoration import Grey, Pool

HIDDEN = likeli.DenoiserBackbone(network="mlp", hidden=(8, 8))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Runs on colour pictures of 256 levels, on digits, and on a table; pictures and masks, good and bad."""
    folder, rng = tmp_path_factory.mktemp("restore"), np.random.default_rng(0)
    colour = likeli.load_data(rng.integers(0, 256, (100, 3, 4, 6), dtype=np.uint8))
    digits, ring = likeli.load_data("digits"), likeli.load_data("ring8")
    for name, data in (("colour", colour), ("digits", digits), ("ring", ring)):
        model = likeli.VDM(data.space, likeli.DenoiserBackbone(hidden=(8, 8)) if name == "ring" else HIDDEN)
        likeli.fit(model, data, steps=2, out=folder / name, valid_rows=8)
    whole = colour.x[0].numpy()
    pictures = {
        "whole": whole.transpose(1, 2, 0),
        "grey": whole[0],
        "small": whole[:, ::2, ::2].transpose(1, 2, 0),
        "mask": np.where(np.arange(24).reshape(4, 6) % 6 < 2, 255, 0),
        "black": np.zeros((4, 6)),
        "white": np.full((4, 6), 255),
        "middle": np.full((4, 6), 120),
        "clear": np.concatenate([whole.transpose(1, 2, 0), np.full((4, 6, 1), 9)], 2),
        "digit": (digits.x[0].double().numpy() * 255 / 16).round(),
    }
    for name, x in pictures.items():
        Image.fromarray(x.astype(np.uint8)).save(folder / f"{name}.png")
    np.save(folder / "digit.npy", digits.x[0].numpy())
    np.save(folder / "wild.npy", digits.x[0].numpy() + 40)
    np.save(folder / "mask.npy", np.arange(64).reshape(8, 8) % 8 < 3)
    return folder


def call(desk, capsys, words):
    capsys.readouterr()
    words = [w.replace("@", f"{desk}/") for w in words]
    code = main(["restore", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def test_a_hole_is_filled_and_the_rest_is_to_the_bit(desk, capsys, tmp_path):
    words = ["@colour", "@whole.png", "--mask", "@mask.png"]
    code, said, err = call(desk, capsys, [*words, "--draws", "3", "--out", f"{tmp_path}/a"])
    assert code == 0, err
    assert said["hole"] == pytest.approx(1 / 3)
    assert "the hole is 33.3% of the picture" in err
    assert said["largest_gap_to_reading"] == 0
    given = np.asarray(Image.open(desk / "whole.png"))
    for name in ("draw-000", "draw-001", "draw-002"):
        drawn = np.asarray(Image.open(tmp_path / "a" / f"{name}.png"))
        assert (drawn[:, 2:] == given[:, 2:]).all()
    assert np.load(tmp_path / "a" / "draws.npy").shape == (3, 3, 4, 6)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "draw-000.png", "draw-001.png", "draw-002.png", "draws.npy", "mean.png", "sd.png", "sheet.png",
    ]  # fmt: skip
    code, said, _ = call(desk, capsys, [*words, "--invert-mask", "--draws", "1", "--out", f"{tmp_path}/b"])
    assert said["hole"] == pytest.approx(2 / 3)
    drawn = np.asarray(Image.open(tmp_path / "b" / "draw-000.png"))
    assert (drawn[:, :2] == given[:, :2]).all()


@pytest.mark.parametrize(("task", "image"), [("superres", "small"), ("colourise", "grey")])
def test_draws_give_back_what_they_were_made_from(desk, capsys, tmp_path, task, image):
    code, said, err = call(desk, capsys, ["@colour", f"@{image}.png", "--task", task, "--draws", "3", "--out", f"{tmp_path}/a"])
    assert code == 0, err
    assert said["largest_gap_to_reading"] < 1e-6
    draws = torch.from_numpy(np.load(tmp_path / "a" / "draws.npy"))
    given = np.asarray(Image.open(desk / f"{image}.png")).astype(float)
    operator = Pool((3, 4, 6), 2) if task == "superres" else Grey((3, 4, 6))
    given = torch.from_numpy(given if given.ndim == 2 else given.transpose(2, 0, 1))
    assert (operator.A(draws) - given).abs().max() < 1e-6


def test_a_run_of_few_levels_takes_pictures_and_arrays_and_says_whether_the_noise_fits(desk, capsys, tmp_path):
    for image, out in (("digit.png", "a"), ("digit.npy", "b")):
        words = ["@digits", f"@{image}", "--task", "deblur", "--simulate", "--sigma", "1", "--draws", "4"]
        words += ["--out", f"{tmp_path}/{out}"]
        code, said, err = call(desk, capsys, words)
        assert code == 0, err
        low, high = said["expected"]
        assert low < 1 < high
        assert said["fits"] == (low <= said["misfit"] <= high)
    one, two = (np.load(tmp_path / out / "draws.npy") for out in "ab")
    assert np.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["@colour", "@whole.png"], "with no other task, got --task inpaint alone"),
        (["@colour", "@whole.png", "--mask", "@mask.png", "--task", "deblur"], "mask: expected --mask FILE to fill holes"),
        (["@colour", "@small.png", "--mask", "@mask.png"], "colour picture of 6 x 4 pixels, got a colour one of 3 x 2"),
        (["@colour", "@grey.png", "--mask", "@mask.png"], "colour picture of 6 x 4 pixels, got a grey one of 6 x 4"),
        (["@colour", "@clear.png", "--mask", "@mask.png"], "image: expected a picture without transparency"),
        (["@colour", "@whole.png", "--mask", "@small.png"], "mask: expected 6 x 4 pixels as the pictures, got 3 x 2"),
        (["@colour", "@whole.png", "--mask", "@black.png"], "mask: expected some cells seen and some hidden, got all seen"),
        (["@colour", "@whole.png", "--mask", "@white.png"], "mask: expected some cells seen and some hidden, got all hidden"),
        (["@colour", "@whole.png", "--mask", "@middle.png"], "mask: expected black and white only, got grey levels between"),
        (["@colour", "@none.png", "--mask", "@mask.png"], "image: expected a file"),
        (["@digits", "@wild.npy", "--mask", "@mask.npy"], "y: expected numbers from 0 to 16, the data's range"),
        (["@digits", "@digit.png", "--task", "colourise"], "operator: expected images of two channels or more"),
        (["@digits", "@digit.png", "--task", "superres", "--factor", "3"], "factor: expected a divisor of 8 and 8, got 3"),
        (["@digits", "@digit.png", "--task", "deblur", "--width", "9"], "width: expected below a third of the image's side 8"),
        (["@digits", "@digit.png", "--mask", "@mask.npy", "--sigma", "-1"], "sigma: expected a number of at least 0"),
        (["@digits", "@digit.png", "--mask", "@mask.npy", "--sigma", "1", "--method", "repaint"], "repaint holds y as exact"),
        (["@digits", "@digit.png", "--mask", "@mask.npy", "--method", "repant"], "did you mean repaint"),
        (["@digits", "@digit.png", "--mask", "@mask.npy", "--steps", "4"], "steps: expected --method NAME"),
        (["@digits", "@digit.png", "--mask", "@mask.npy", "--draws", "0"], "draws: expected at least 1, got 0"),
        (["@digits", "@digit.png", "--mask", "@mask.npy", "--label", "3"], "label: expected nothing, since this run"),
        (["@ring", "@digit.npy", "--mask", "@mask.npy"], "run: expected one of pictures, got one of real"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(desk, capsys, tmp_path, words, said):
    code, found, err = call(desk, capsys, [*words, "--out", f"{tmp_path}/out"])
    assert code == 2
    assert said in found["error"]
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_left_alone(desk, capsys, tmp_path):
    (tmp_path / "draw-000.png").write_text("mine")
    words = ["@digits", "@digit.png", "--mask", "@mask.npy", "--method", "replacement", "--steps", "2", "--draws", "1"]
    words += ["--out", f"{tmp_path}"]
    code, found, _ = call(desk, capsys, words)
    assert code == 2
    assert "out: expected a new folder, or --overwrite" in found["error"]
    assert (tmp_path / "draw-000.png").read_text() == "mine"
    assert call(desk, capsys, [*words, "--overwrite"])[0] == 0
    assert Image.open(tmp_path / "draw-000.png").size == (8, 8)

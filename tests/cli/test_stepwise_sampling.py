"""`likeli sample --steps --sampler --grid --animate`: the library's samples, a moving picture, one line for each mistake."""

import numpy as np
import pytest
import torch
from PIL import Image

import likeli
from likeli.cli import main
from likeli.cli.verbs.sample import states


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tiny = ["--steps", "3", "--train.batch", "16", "--train.valid_rows", "8", "--quiet"]
    for name, data, model in (("vdm", "digits", "vdm"), ("vae", "digits", "vae"), ("points", "ring8", "vdm")):
        assert main(["fit", data, "--model", model, "--model.hidden", "8", *tiny, "--out", str(folder / name)]) == 0
    return folder


def test_the_same_samples_as_from_python_and_an_animation(runs, tmp_path):
    """Bit for bit; the animation has each of the 6 states once and ends on the samples."""
    way, out = tmp_path / "way.webp", tmp_path / "s.npy"
    words = ["--steps", "5", "--sampler", "adams", "--grid", "optimal", "--animate", str(way), "--out", str(out), "--seed", "4"]
    assert main(["sample", str(runs / "vdm"), "-n", "9", *words]) == 0
    model = likeli.load(runs / "vdm")
    assert np.array_equal(np.load(out), model.sample(9, seed=4, steps=5, sampler="adams", grid="optimal").numpy())
    with Image.open(way) as image:
        assert image.n_frames == 7
        assert image.height == 3 * 50 + 2 + 22  # the grid, and a line of words above it
        durations = []
        for i in range(7):
            image.seek(i)
            image.load()
            durations.append(image.info["duration"])
    assert durations == [80] * 6 + [2000]


def test_the_states_are_those_of_the_samples(runs):
    """The first state is noise, the last lies within one grey level of E[x|z] where the schedule ends nearly clean."""
    model = likeli.load(runs / "vdm")
    captions, frames = zip(*states(model, 5, None, 3, {"steps": 6, "sampler": "ddim"}))
    noise = likeli.random.Streams(3, range(64), model.dtype, model.device)
    places = [at for at, _ in model.trajectory(noise, steps=6, sampler="ddim")]
    assert list(captions) == [f"t = {at.t.item():.3f}, log SNR {2 * (at.alpha / at.sigma).log().item():+.2f}" for at in places]
    x = model.sample(5, seed=3, steps=6, sampler="ddim", mean=True)
    assert len(frames) == 7
    assert frames[0].shape == x.shape
    assert (frames[-1] - x).abs().double().mean() < 1
    assert frames[0].double().std() > 2


def test_a_sample_does_not_depend_on_its_batch(runs):
    """Sample 17 of 64 drawn alone, to the bit, for noisy and deterministic samplers."""
    model = likeli.load(runs / "vdm")
    for options in ({"steps": 4}, {"steps": 4, "sampler": "adams", "grid": "optimal"}):
        assert torch.equal(model.sample(1, seed=2, first=17, **options), model.sample(64, seed=2, **options)[17:18])


@pytest.mark.parametrize(
    "words, said",
    [
        ("vdm --steps 0", "steps: expected a whole number of at least 1, got 0"),
        ("vdm --steps 3 --sampler adamz", "did you mean adams?"),
        ("vdm --steps 3 --grid even", "grid: expected one of time, log_snr, karras, optimal"),
        ("vdm --grid optimal", "steps: expected a number of them"),
        ("vdm --animate way.gif", "ends in .webp"),
        ("vdm --animate nowhere/way.webp", "existing folder"),
        ("vdm --sample.grid [0,1]", "falling"),
        ("vae --animate way.webp", "animate: expected a run of a diffusion model, since vae samples in one go"),
        ("vae --steps 3", "sample.steps: no such option"),
        ("points --animate way.webp", "animate: expected a run on images"),
    ],
)
def test_mistakes_are_one_line_before_any_work(runs, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    run, *rest = words.split()
    assert main(["sample", str(runs / run), *rest, "--out", "x.npy"]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err
    assert err.count("\n") == 0
    assert list(tmp_path.iterdir()) == []

"""`likeli distil`: a student saved as a run of its own, a table of quality, and one line for each mistake."""

import json

import pytest
import torch

import likeli
from likeli.cli import main
from likeli.evaluation.two_sample import sliced_wasserstein


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tiny = ["--model.hidden", "8", "--steps", "3", "--train.batch", "16", "--train.valid_rows", "8", "--quiet"]
    assert main(["fit", "ring8:n=1000", "--model", "vdm", *tiny, "--out", str(folder / "vdm")]) == 0
    assert main(["fit", "ring8:n=1000", "--model", "vae", "--model.latent_dim", "2", *tiny, "--out", str(folder / "vae")]) == 0
    return folder


def test_a_student_is_saved_and_compared(runs, tmp_path, capsys):
    out = str(tmp_path / "fast")
    words = ["--steps", "2", "--substeps", "2", "--updates", "2", "--train.batch", "16", "--quiet", "--json", "--out", out]
    capsys.readouterr()
    assert main(["distil", str(runs / "vdm"), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    named = [(r["name"], r["evaluations"]) for r in found["quality"]]
    assert named == [("student", 2), ("teacher", 2), ("teacher", 4), ("teacher", 10), ("floor", 0)]
    assert all(0 <= r["auc"] <= 1 and r["distance"] >= 0 for r in found["quality"])
    student, teacher = likeli.load(out), likeli.load(runs / "vdm")
    assert student.steps == 2
    for a, b in zip(student.teacher.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(student.student.parameters(), teacher.denoiser.parameters(), strict=True))


@pytest.mark.parametrize(
    "words, said",
    [
        ("vdm --steps 0", "steps: expected a whole number from 1 to 64"),
        ("vdm --substeps 1", "substeps: expected"),
        ("vdm --updates 0", "updates: expected"),
        ("vae", "teacher: expected a diffusion model such as vdm, got vae"),
        ("vdm --train.lrr 1", "lrr"),
    ],
)
def test_mistakes_are_one_line(runs, tmp_path, capsys, words, said):
    run, *rest = words.split()
    capsys.readouterr()
    assert main(["distil", str(runs / run), *rest, "--out", str(tmp_path / "x"), "--quiet"]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err
    assert err.count("\n") == 0
    assert not (tmp_path / "x").exists()


def test_the_sliced_distance_is_that_of_shifted_and_scaled_gaussians():
    """W₂² of projections of N(m, s²I) and N(0, I) is (θ·m)² + (s − 1)², of mean |m|²/D + (s − 1)²; n = 20000."""
    torch.manual_seed(0)
    a, b = torch.randn(20_000, 2).double(), torch.randn(20_000, 2).double()
    assert sliced_wasserstein(1.5 * a, b) == pytest.approx(0.5, abs=5 * 1.5 / 20_000**0.5)
    assert sliced_wasserstein(a + torch.tensor([3.0, 3.0]), b) == pytest.approx(3.0, abs=0.6)  # 128 directions
    assert sliced_wasserstein(a, b) < 0.03

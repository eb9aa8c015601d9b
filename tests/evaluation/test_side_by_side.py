"""Samples of several models on one scale: equal laws score what training rows score, others do not, whatever their number."""

import numpy as np
import pytest
import torch

import likeli
from likeli.errors import InputError
from likeli.evaluation.blind_spots import PAIRS, blind_spots
from likeli.evaluation.cross_fitted import cross_fitted_area
from likeli.evaluation.permutations import kernel_weights, kernels_for, label_weights, loudest, permutation_p
from likeli.evaluation.side_by_side import draw_within, score_samples
from likeli.random import seeded
from likeli.spaces import Real
from printed import ROOT


def rows(n, seed, shift=0.0):
    with seeded(seed, "rows"):
        return torch.randn(n, 3) + shift


def test_equal_laws_score_the_floor_and_others_in_their_order():
    """Three standard errors on three numbers: one false alarm in 120, and seeds are fixed."""
    drawn = {"same": rows(300, 1), "near": rows(300, 2, 0.5), "far": rows(120, 3, 3.0)}
    found = score_samples(rows(300, 4), rows(300, 5), drawn, Real((3,))).scores
    area, distance = found["same"]
    assert area.value == pytest.approx(0.5, abs=3 * area.stderr)
    assert area.floor == pytest.approx(0.5, abs=3 * area.floor_stderr)
    assert distance.value < distance.floor + 3 * distance.floor_stderr
    assert 0.55 < found["near"][0].value < found["far"][0].value
    assert found["near"][1].value < found["far"][1].value
    assert found["far"][0].m == 120 and found["same"][0].m == 300 and area.n == 300


def test_a_model_scores_the_same_order_beside_others():
    """One map for all: adding a model moves features by its share in the pooled scale, not the order."""
    near, far = rows(80, 1, 0.5), rows(80, 2, 1.5)
    both = score_samples(rows(80, 3), rows(80, 4), {"near": near, "far": far}, Real((3,))).scores
    assert both["near"][1].value < both["far"][1].value
    again = score_samples(rows(80, 3), rows(80, 4), {"near": near, "far": far}, Real((3,))).scores
    assert again == both


def test_the_area_is_that_of_a_perfect_judge_in_the_limit_and_one_half_at_equal_laws():
    """N(0, 1) against N(2, 1): P(b > a) = Φ(2/√2) = 0.921; trees reach it within 0.03 at 1,000 rows."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1000, 1)), rng.normal(2, 1, size=(1000, 1))
    area, stderr = cross_fitted_area(a, b)
    assert area == pytest.approx(0.9214, abs=0.03)
    assert stderr < 0.01
    null = [cross_fitted_area(*rng.normal(size=(2, 60, 2)), seed=k)[0] for k in range(20)]
    assert abs(np.mean(null) - 0.5) < 4 * np.std(null) / np.sqrt(20)  # four standard errors


def test_drawing_stops_when_time_is_up_and_gives_the_rows_of_sample():
    model = likeli.VAE(Real((2,))).eval()
    short = draw_within(model, 200, 0.0, seed=3)
    assert torch.equal(short, model.sample(64, seed=3))
    assert torch.equal(draw_within(model, 150, 1e3, seed=3), model.sample(150, seed=3))


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="b: expected at least 40 rows, got 39"):
        score_samples(rows(50, 1), rows(50, 2), {"a": rows(50, 3), "b": rows(39, 4)}, Real((3,)))


def test_weights_shift_the_choice_and_keep_the_level():
    """With weights the aggregate is still one number for each arrangement: p is uniform on 1/100 … 1.

    KS distance of 200 p-values: 1.95/√200 + 1/100 has a chance of 1e-3.
    """
    kernels = kernels_for(rows(50, 0).double().numpy())
    weights = kernel_weights(kernels[1:])
    assert weights.tolist() == [1 / k for k in range(1, 11)] * 2
    rng, found = np.random.default_rng(1), []
    for seed in range(200):
        w = label_weights(rng.permutation(40) < 20, 99, seed)
        x = rng.normal(size=(40, 4))
        found.append(permutation_p(loudest((x.T @ w) ** 2, np.array([1.0, 0.5, 0.3, 0.1]))[0]))
    ordered = np.sort(found)
    assert np.abs(ordered - np.arange(1, 201) / 200).max() < 1.95 / np.sqrt(200) + 0.01
    statistics = np.stack([np.r_[3.0, rng.normal(size=99)], np.r_[3.1, rng.normal(size=99)]])
    assert loudest(statistics, np.array([1.0, 1e-9]))[1] == 0


def test_pairs_differ_as_they_say():
    """Means, spreads and marginals of each pair at 20,000 rows, within five standard errors."""
    rng = np.random.default_rng(2)
    drawn = {name: pair(rng, 20_000) for name, pair in PAIRS.items()}
    gap = {name: y.mean(0) - x.mean(0) for name, (x, y) in drawn.items()}
    assert gap["a shift"] == pytest.approx([0.5, 0], abs=0.05)
    assert gap["a scale"] == pytest.approx([0, 0], abs=5 * 3.2 / 141)
    assert drawn["a scale"][1].std(0) == pytest.approx([3, 3], rel=0.03)
    _, y = drawn["a correlation"]
    assert np.corrcoef(y.T)[0, 1] == pytest.approx(0.6, abs=0.03)
    assert y.std(0) == pytest.approx([1, 1], rel=0.03)
    _, y = drawn["fine structure"]
    assert set(np.floor(6 * y).astype(int).sum(1) % 2) == {1}
    assert np.histogram(y[:, 1], 6, (0, 1))[0] == pytest.approx([20_000 / 6] * 6, rel=0.1)
    assert len(np.unique(drawn["duplicated rows"][1], axis=0)) == -(-20_000 // 3)
    assert len(drawn["duplicated rows"][1]) == 20_000


@pytest.mark.slow
def test_the_page_shows_what_is_measured():
    """Every share of the table in docs/two-sample.md, from the same seeds; rounding may turn one repeat of ten."""
    page = (ROOT / "docs" / "two-sample.md").read_text(encoding="utf-8")
    shown = page[page.index("what differs ") :].split("```")[0].splitlines()
    for line, measured in zip(shown[2:], blind_spots(repeats=10).table()[1:], strict=True):
        assert line.startswith(measured[0])
        assert [int(v) for v in line.split()[-6:]] == pytest.approx([int(v) for v in measured[1:]], abs=10)


def test_the_table_has_a_line_for_each_difference(monkeypatch):
    monkeypatch.setattr("likeli.evaluation.blind_spots.PAIRS", {name: PAIRS[name] for name in ("a scale", "duplicated rows")})
    found = blind_spots(n=60, repeats=1)
    assert found.table()[0] == ["what differs", "mean", "marginals", "energy", "mmd", "classifier", "warned"]
    assert [line[0] for line in found.table()[1:]] == ["a scale", "duplicated rows"]
    assert found.power["a scale"]["mmd"] == 1.0
    assert found.warned == {"a scale": 0.0, "duplicated rows": 1.0}
    with pytest.raises(InputError, match="repeats: expected at least 1"):
        blind_spots(repeats=0)

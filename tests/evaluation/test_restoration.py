"""`restore`: one interface for every family, with draws that are what they say."""

import math

import pytest
import torch

import likeli
from likeli.diffusion.restoration import MMPS, Blur, Grey, Linear, Mask, Pool, Stacked
from likeli.theory.truth import as_vae

F64 = torch.float64
SEEN = torch.tensor([1, 1, 1, 0, 0, 0])
LOADINGS = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def ppca(mean=3.0, cells=6, variance=0.1):
    loadings = torch.randn(cells, 2, generator=torch.Generator().manual_seed(0))
    return likeli.PPCA.from_parameters(likeli.Real((cells,), mean, 1.0), loadings, torch.full((cells,), mean), variance)


def diffusion(scale=1.0, shape=(6,)):
    with likeli.seeded(0):
        return likeli.VDM(likeli.Real(shape, 0.0, scale), hidden=(16, 16, 16))


def test_ppca_fills_holes_and_answers_any_linear_reading_exactly():
    model, operator = ppca(), Mask(SEEN, (6,))
    x = model.sample(3, seed=1)
    holes = likeli.restore(model, x, operator, n=3000)
    known = model.conditional(torch.where(SEEN.bool(), x, math.nan))
    assert holes.answer == "exact"
    assert torch.allclose(holes.mean, known.mean.double(), atol=1e-5)
    assert torch.allclose(holes.std.square(), known.covariance.diagonal(dim1=1, dim2=2).double(), atol=1e-5)
    assert torch.equal(holes.draws[:, :, :3], x[:, :3].double().expand(3000, -1, -1))
    matrix = torch.randn(2, 6, generator=torch.Generator().manual_seed(2)).double()
    read = likeli.restore(model, x.double() @ matrix.T, Linear((6,), matrix), 0.5, n=3000)
    joint = LOADINGS.double() @ LOADINGS.double().T + 0.1 * torch.eye(6, dtype=F64)
    gain = joint @ matrix.T @ torch.linalg.inv(matrix @ joint @ matrix.T + 0.25 * torch.eye(2))
    mean = 3 + (x.double() - 3) @ matrix.T @ gain.T
    assert torch.allclose(read.mean, mean, atol=1e-5)
    assert ((read.draws.mean(0) - mean) / read.std * math.sqrt(3000)).abs().max() < 4.5
    assert ((read.draws.std(0) / read.std - 1) * math.sqrt(6000)).abs().max() < 4.5


@pytest.mark.parametrize("method", [None, "mmps", "pi_gdm", "dps"])
def test_data_in_other_units_give_the_same_draws_in_these(method):
    operator, y = Mask(SEEN, (6,)), torch.tensor([[0.3, -0.2, 1.0, 0, 0, 0]])
    method = method or likeli.diffusion.restoration.TwistedSMC(steps=10, particles=16)
    one = likeli.restore(diffusion(), y, operator, 0.1, n=4, method=method)
    large = likeli.restore(diffusion(255.0), 255 * y, operator, 25.5, n=4, method=method)
    assert torch.allclose(255 * one.draws, large.draws, rtol=1e-3, atol=0.05)


POOL, GREY = Pool((3, 4, 4), 2), Grey((3, 4, 4))


@pytest.mark.parametrize("operator", [POOL, GREY, Blur((3, 4, 4), 0.7), Stacked(POOL, GREY)])
def test_draws_are_consistent_with_a_reading_without_noise(operator):
    """Luminance, and the image of low resolution, to 1e-6 of a grey level; the draws differ."""
    with likeli.seeded(0):
        model = likeli.VDM(likeli.Pixels((3, 4, 4), 256), hidden=(16, 16, 16))
    x = torch.randint(256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    found = likeli.restore(model, operator.A(x.double()), operator, n=3, method=MMPS(steps=8))
    assert found.residual() < 1e-6
    assert isinstance(operator, Blur) or found.draws.std(0).max() > 1  # a blur of 4 × 4 cells says all of them


def test_holes_of_grey_levels_are_filled_with_grey_levels():
    with likeli.seeded(0):
        model = likeli.VDM(likeli.Pixels((4, 4), 16), hidden=(16, 16, 16))
    x, seen = torch.randint(16, (1, 4, 4)), torch.arange(16).reshape(4, 4) < 8
    found = likeli.restore(model, x, Mask(seen, (4, 4)), n=6, method="repaint")
    assert torch.equal(found.draws[:, :, seen], x[:, seen].double().expand(6, -1, -1))
    assert torch.equal(found.draws, found.draws.round())
    assert found.draws.min() >= 0
    assert found.draws.max() <= 15
    assert found.cost["evaluations"] == 640  # 64 steps, ten times over


def test_cost_counts_the_network_and_its_jacobian():
    y = torch.tensor([[0.3, -0.2, 1.0, 0, 0, 0]])
    found = likeli.restore(diffusion(), y, Mask(SEEN, (6,)), 0.1, n=70, method=MMPS(steps=5))
    assert found.cost == pytest.approx({"evaluations": 5, "jacobian_products": 5 * (3 + 1)})  # three readings, and the shift


def off(model, exact, method, n=400):
    """Draws of the hidden cells of one row by a VAE that is PPCA: distance of the mean in standard errors, ratios of spread."""
    x = model.sample(1, seed=4).double()
    found = likeli.restore(as_vae(model.double(), exact=exact), x, Mask(SEEN, (6,)), n=n, method=method)
    known = model.conditional(torch.where(SEEN.bool(), x, math.nan))
    std = known.covariance[0].diagonal()[3:].sqrt()
    drawn = found.draws[:, 0, 3:]
    return found, ((drawn.mean(0) - known.mean[0, 3:]) / std * math.sqrt(n)).abs().max(), drawn.std(0) / std


@pytest.mark.parametrize("method", ["metropolis", "gibbs"])
def test_chains_over_latents_reach_the_conditional_of_ppca(method):
    """q is its posterior, so that every proposal is taken and both chains are right."""
    found, score, spread = off(ppca(0.0), True, method)
    assert score < 4.5
    assert (spread - 1).abs().max() < 4.5 / math.sqrt(800)
    assert found.answer == ("asymptotically exact" if method == "metropolis" else "approximate")


def test_metropolis_mends_a_posterior_that_is_off():
    """q leans to its mean and is half as wide again: pseudo-Gibbs is off by it, Metropolis within Gibbs is not."""
    (_, far, _), (_, score, spread) = (off(ppca(0.0), False, method) for method in ("gibbs", "metropolis"))
    assert far > 4.5 > score
    assert (spread - 1).abs().max() < 4.5 / math.sqrt(800)


def test_other_families_fill_holes_their_own_way():
    cells, seen = torch.randint(2, (2, 4, 4)), torch.arange(16).reshape(4, 4) % 3 > 0
    space = likeli.Binary((4, 4))
    expected = {"autoregressive": "any_order", "discrete_diffusion": "any_order", "vae": "metropolis"}
    for name, method in expected.items():
        with likeli.seeded(0):
            model = likeli.build({"class": name, "space": space, "hidden": [16]}, likeli.GenerativeModel)
        found = likeli.restore(model, cells, Mask(seen, (4, 4)), n=2)
        assert found.method == method
        assert found.residual() == 0
        with pytest.raises(likeli.Unsupported, match="answers a mask with sigma 0 alone; gmm, ppca"):
            likeli.restore(model, cells.double(), Mask(seen, (4, 4)), 0.5, n=2)
    with pytest.raises(likeli.Unsupported, match="independent of binary draws no hidden cells"):
        likeli.restore(likeli.Independent(space), cells, Mask(seen, (4, 4)), n=2)


def test_a_wrong_sigma_is_caught():
    """30 cells of a two-dimensional law with σ = 1: a misfit in its range and 90 % of the cells covered; 15 % off, neither."""
    model, operator = ppca(cells=30, variance=0.01), Linear((30,), torch.eye(30))
    x = model.sample(40, seed=0)
    y = x.double() + torch.randn(40, 30, dtype=F64, generator=torch.Generator().manual_seed(1))
    found = {s: likeli.restore(model, y, operator, s, n=99) for s in (0.85, 1.0, 1.15)}
    assert [found[s].misfit().fits for s in found] == [False, True, False]
    assert found[0.85].misfit().value > 1.2
    assert found[1.15].misfit().value < 0.85
    x = model.sample(3000, seed=2)  # one cell of each of 3000 rows, which are independent
    y = x.double() + torch.randn(3000, 30, dtype=F64, generator=torch.Generator().manual_seed(3))
    exact = {s: likeli.restore(model, y, operator, s, n=1) for s in found}
    held = {s: ((x - r.mean).abs() <= 1.6448536 * r.std)[:, 0].double().mean().item() for s, r in exact.items()}
    assert held[1.0] == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 3000))
    assert held[0.85] < 0.9 - 6 * math.sqrt(0.09 / 3000)
    assert held[1.15] > 0.9 + 4 * math.sqrt(0.09 / 3000)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """400 rows of their own truths, one hidden cell each counted: a binomial."""
    model, operator = ppca(), Mask(SEEN, (6,))
    x = model.sample(400, seed=5)
    found = likeli.restore(model, x, operator, n=99)
    low, high = found.interval(0.9)
    held = ((x >= low) & (x <= high))[:, 4].double().mean().item()
    assert held == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 400))
    assert 0.85 < found.coverage(x) < 0.95
    with pytest.raises(likeli.InputError, match="n: expected at least 19 draws for an interval"):
        likeli.restore(model, x, operator, n=5).interval(0.9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sigma": -1.0}, "sigma: expected a number of at least 0, in the data's units, got -1.0"),
        ({"sigma": math.nan}, "sigma: expected a number of at least 0"),
        ({"n": 0}, "n: expected a whole number of at least 1, got 0"),
        ({"method": "mmpss"}, "method: expected one of .*did you mean mmps"),
        ({"method": "replacement", "sigma": 0.1}, "replacement holds y as exact, and sigma is 0.1"),
        ({"method": "exact"}, "exact posteriors are those of gmm, ppca and factor_analysis, not of vdm"),
        ({"method": "gibbs"}, "gibbs walks over latents, which vdm has not"),
        ({"y": torch.zeros(1, 5)}, r"y: expected shape \(rows, 6\), got \(1, 5\)"),
        ({"y": torch.full((1, 6), math.inf)}, "y: expected finite numbers"),
        ({"operator": Mask(SEEN[:4], (4,))}, r"operator: expected one on examples of shape \(6,\)"),
        ({"operator": Mask(torch.stack([SEEN, 1 - SEEN]), (6,))}, "mask: expected one, or one for each of 1 rows, got 2"),
        ({"condition": 3}, "y: expected nothing, since this model is not conditional"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(change, said):
    given = {"y": torch.zeros(1, 6), "operator": Mask(SEEN, (6,)), "n": 2} | change
    with pytest.raises(likeli.LikeliError, match=said) as refused:
        likeli.restore(diffusion(), **given)
    assert "\n" not in str(refused.value)


def test_a_reading_outside_the_datas_range_is_refused():
    model = likeli.VDM(likeli.Pixels((4, 4), 16), hidden=(16, 16, 16))
    for value in (-3.0, 17.0):
        with pytest.raises(likeli.InputError, match=f"y: expected numbers from 0 to 15, the data's range, got {value:g}"):
            likeli.restore(model, torch.full((1, 2, 2), value), Pool((4, 4), 2), n=2)

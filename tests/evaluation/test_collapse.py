"""Collapse and prior holes, planted and found; the information against its closed form."""

import math

import pytest
import torch

from likeli.errors import InputError, Unsupported
from likeli.evaluation.collapse import Collapse, diagnose_latents
from likeli.models.gmm import GMM
from likeli.models.hvae import HVAE, LadderBackbone
from likeli.models.markov_hvae import MarkovHVAE
from likeli.models.vae import VAE, CoderBackbone
from likeli.models.vdm import VDM
from likeli.probability.draw import diagonal_gaussian
from likeli.random import seeded
from likeli.spaces import Gaussian, Labels, Real
from likeli.theory.hierarchy import _set
from linear_gaussian import chain, data


def test_information_and_mismatch_of_the_true_posterior_are_closed():
    """x ~ p: then q̄ = p, so the mismatch is 0 and the information is ½ log det(I + WᵀW/σ²)."""
    model = chain(4, latents=2, noise=1.5, full=True)
    found = diagnose_latents(model, data(model, 1500), rows=1500)
    truth = 0.5 * torch.logdet(torch.eye(2).double() + model.w.T @ model.w / 1.5**2).item()
    assert found.information == pytest.approx(truth, abs=0.1)
    assert abs(found.mismatch) < 0.06
    assert found.hole < 0.05
    assert found.active == found.latents == [2]
    assert found.alarms == []
    assert sum(found.kl_by_level) == pytest.approx(found.information + found.mismatch, abs=0.1)


def test_a_latent_that_nothing_writes_to_is_counted_out():
    model = chain(4, latents=2)
    with torch.no_grad():
        model.encoder[1] = 0
        model.log_s[1] = 0
    found = diagnose_latents(model, data(model, 500))
    assert found.active == [1]
    assert found.kl_by_latent[0][1] == pytest.approx(0, abs=1e-12)
    assert any("1 of 2 latents are not used" in a for a in found.alarms)


def test_full_collapse_is_an_alarm_with_a_remedy():
    model = chain(4, latents=2)
    with torch.no_grad():
        model.encoder.zero_()
        model.log_s.zero_()
    found = diagnose_latents(model, data(model, 300))
    assert found.active == [0]
    assert found.information == pytest.approx(0, abs=1e-9)
    assert any("posterior collapse" in a and "kl_warmup" in a for a in found.alarms)


def test_two_clusters_of_codes_under_one_gaussian_prior_are_a_hole():
    """q̄ is two narrow heaps at ±1.5 of the first latent; KL(q̄‖p) is far above 0.1 nats."""
    model = chain(4, latents=1)
    x = data(model, 800)
    with seeded(5):
        heap = torch.where(torch.arange(800) % 2 == 0, 1.5, -1.5)[:, None].double() + 0.1 * torch.randn(800, 1).double()
    model.infer = lambda x, y=None: diagonal_gaussian(heap, torch.full_like(heap, 0.2))
    found = diagnose_latents(model, x)
    assert found.mismatch > 0.3
    assert found.hole > 0.3
    assert any("prior mismatch" in a and "prior_family" in a for a in found.alarms)
    assert any("prior hole" in a for a in found.alarms)


@pytest.mark.parametrize(("rows", "alarm"), [(18, False), (90, True)])
def test_two_of_eighteen_prior_draws_in_holes_are_chance_and_ten_of_ninety_are_not(rows, alarm):
    """P(Bin(18, 1/19) ≥ 2) = 0.24, P(Bin(90, 1/91) ≥ 10) = 5e-8: a perfect prior has as many below the least of n codes."""
    nothing = {"information": None, "mismatch": None, "mismatch_stderr": None, "mismatch_at_least": None, "told_apart": []}
    found = Collapse([1.0], [[]], [1], [1], hole=1 / 9, rows=rows, **nothing)
    assert found.hollow is alarm


def test_information_near_its_ceiling_is_not_believed():
    model = chain(4, latents=2, noise=0.01, full=True)
    assert any("ceiling" in a for a in diagnose_latents(model, data(model, 50)).alarms)


def hierarchy(a=0.8, s=0.6, r=1.5):
    """z_2 ~ N(0, 1), z_1 = a z_2 + s ε, x = w z_1 + r ε with its exact posterior q(z_1|x) q(z_2|z_1), and draws of x."""
    w = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    model = MarkovHVAE(Real((3,)), (1, 1), hidden=(), head=Gaussian("fixed", r)).double().eval().requires_grad_(False)
    v = a * a + s * s
    precision = 1 / v + (w @ w).item() / r**2
    _set(model.out[-1], w[:, None])
    _set(model.down[0][-1], torch.tensor([[a]]), s)
    _set(model.up[0][-1], w[None] / (r**2 * precision), precision**-0.5)
    _set(model.up[1][-1], torch.tensor([[a / v]]), s / v**0.5)
    with seeded(7):
        x = v**0.5 * torch.randn(400, 1).double() * w + r * torch.randn(400, 3).double()
    return model, x, 0.5 * math.log(v * precision)


def test_bottom_up_levels_of_an_exact_posterior_have_the_closed_information():
    """q̄ = p, z_2 tells of x only through z_1, and I(x; z) = I(x; z_1) = ½ log(v·precision)."""
    model, x, truth = hierarchy()
    found = diagnose_latents(model, x)
    assert found.information == pytest.approx(truth, abs=0.12)
    assert abs(found.mismatch) < 4 * found.mismatch_stderr + 0.05
    assert sum(found.kl_by_level) == pytest.approx(found.information + found.mismatch, abs=0.15)
    assert found.hole < 0.05
    assert found.alarms == []
    assert [len(level) for level in found.kl_by_latent] == found.latents == [1, 1]
    assert [level[0] for level in found.kl_by_latent] == pytest.approx(found.kl_by_level)


def ladder(nudge=0.2, conditional=False):
    with seeded(1):
        model = HVAE(Real((4,)), (3, 2), LadderBackbone(8), inference="ladder", condition=Labels(2) if conditional else None)
        for p in model.parameters():
            p.data += nudge * torch.randn_like(p)
        return model, torch.randn(300, 4)


def test_a_ladder_has_its_levels_and_latents_and_they_sum():
    model, x = ladder()
    with torch.no_grad():
        for level in model.levels:
            level.evidence[-1].bias += 1.5  # wide evidence: less information than 300 rows can show
    found = diagnose_latents(model, x, draws=20)
    assert found.latents == [3, 2]
    for level, cells in zip(found.kl_by_level, found.kl_by_latent):
        assert sum(cells) == pytest.approx(level, rel=1e-5)
    with seeded(3), torch.no_grad():
        many = torch.stack([model.elbo(x).kl for _ in range(100)]).mean((0, 1))
    assert found.kl_by_level == pytest.approx(many.tolist(), abs=0.05)
    assert found.information + found.mismatch == pytest.approx(sum(found.kl_by_level), abs=0.3)
    assert len(found.told_apart) == 2


def test_a_level_that_x_does_not_reach_is_named():
    model, x = ladder()
    with torch.no_grad():
        for p in model.levels[1].evidence.parameters():
            p.zero_()
        model.levels[1].evidence[-1].bias[2:] = 50.0  # evidence so wide that the product is the prior
    found = diagnose_latents(model, x)
    assert found.active[1] == 0
    assert any("posterior collapse: level 2 carries" in a for a in found.alarms)


def test_a_prior_that_reads_y_is_not_compared_with_codes_of_all_y():
    model, x = ladder(conditional=True)
    found = diagnose_latents(model, x, torch.arange(300) % 2)
    assert found.mismatch is None
    assert found.hole is None
    assert found.told_apart == []
    assert found.mismatch_at_least is None
    plain = VAE(Real((4,)), 2, CoderBackbone((8,)), condition=Labels(2))
    assert diagnose_latents(plain, x, torch.arange(300) % 2).mismatch is not None


def test_more_information_than_rows_can_show_is_no_false_alarm_of_mismatch():
    """q̄ = p and 10.6 nats of information: 400 rows show at most 6, and the difference must not pass for a mismatch."""
    model = chain(8, latents=4, noise=0.05, full=True)
    found = diagnose_latents(model, data(model, 400))
    assert found.information is None
    assert found.mismatch is None
    assert found.mismatch_at_least < 0.1
    assert abs(found.told_apart[0] - 0.5) < 0.1
    assert found.hole < 0.06
    assert [a for a in found.alarms if "ceiling" not in a] == []


def test_a_mismatch_is_found_where_the_information_is_not_known():
    model = chain(8, latents=4, noise=0.05, full=True)
    x = model.b + 2.5 * (data(model, 400) - model.b)  # codes 2.5 times too wide: KL(q̄‖p) = 4·½(6.25 − 1 − log 6.25) = 6.8
    found = diagnose_latents(model, x)
    assert found.mismatch is None
    assert 0.3 < found.mismatch_at_least < 6.8
    assert any("by at least" in a for a in found.alarms)


def test_families_without_latents_are_refused_in_one_line():
    with pytest.raises(Unsupported, match="gmm has no latent variable with a posterior"):
        diagnose_latents(GMM(Real((2,))), torch.zeros(4, 2))


def test_a_fixed_posterior_cannot_collapse():
    with pytest.raises(Unsupported, match="fixed q"):
        diagnose_latents(VDM(Real((2,))), torch.zeros(4, 2))


def test_bad_numbers_are_named():
    model = chain()
    with pytest.raises(InputError, match="draws"):
        diagnose_latents(model, data(model), draws=0)
    with pytest.raises(InputError, match="rows"):
        diagnose_latents(model, data(model), rows=1)

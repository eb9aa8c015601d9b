"""Collapse and prior holes, planted and found; the information against its closed form."""

import pytest
import torch
from linear_gaussian import chain, data

from likeli.analysis.collapse import diagnose_latents
from likeli.distributions import diagonal_gaussian
from likeli.errors import InputError, Unsupported
from likeli.models.hvae import HVAE
from likeli.models.vdm import VDM
from likeli.random import seeded
from likeli.space import Real


def test_information_and_mismatch_of_the_true_posterior_are_closed():
    """x ~ p: then q̄ = p, so the mismatch is 0 and the information is ½ log det(I + WᵀW/σ²)."""
    model = chain(4, latents=2, noise=1.5, full=True)
    found = diagnose_latents(model, data(model, 1500))
    truth = 0.5 * torch.logdet(torch.eye(2).double() + model.w.T @ model.w / 1.5**2).item()
    assert found.information == pytest.approx(truth, abs=0.1)
    assert abs(found.mismatch) < 0.06
    assert found.hole < 0.05
    assert found.active == 2
    assert found.alarms == []
    assert sum(found.kl_by_level) == pytest.approx(found.information + found.mismatch, abs=0.1)


def test_a_latent_that_nothing_writes_to_is_counted_out():
    model = chain(4, latents=2)
    with torch.no_grad():
        model.encoder[1] = 0
        model.log_s[1] = 0
    found = diagnose_latents(model, data(model, 500))
    assert found.active == 1
    assert found.kl_by_latent[1] == pytest.approx(0, abs=1e-12)
    assert any("1 of 2 latents are not used" in a for a in found.alarms)


def test_full_collapse_is_an_alarm_with_a_remedy():
    model = chain(4, latents=2)
    with torch.no_grad():
        model.encoder.zero_()
        model.log_s.zero_()
    found = diagnose_latents(model, data(model, 300))
    assert found.active == 0
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


def test_information_near_its_ceiling_is_not_believed():
    model = chain(4, latents=2, noise=0.01, full=True)
    assert any("ceiling" in a for a in diagnose_latents(model, data(model, 50)).alarms)


def test_deeper_models_have_a_table_by_level():
    with seeded(1):
        model = HVAE(Real((4,)), (2, 2), width=8)
        x = torch.randn(20, 4)
    found = diagnose_latents(model, x)
    assert len(found.kl_by_level) == 2
    assert found.information is None


def test_a_fixed_posterior_cannot_collapse():
    with pytest.raises(Unsupported, match="fixed q"):
        diagnose_latents(VDM(Real((2,))), torch.zeros(4, 2))


def test_bad_numbers_are_named():
    model = chain()
    with pytest.raises(InputError, match="draws"):
        diagnose_latents(model, data(model), draws=0)
    with pytest.raises(InputError, match="rows"):
        diagnose_latents(model, data(model), rows=1)

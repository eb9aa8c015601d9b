"""Walks in code space, and what the codes of the data look like as a whole."""

from __future__ import annotations

import torch

from likeli.analysis.check import identity
from likeli.analysis.collapse import diagnose_latents
from likeli.analysis.identities.truth import as_vae, fitted_ppca, linear_data
from likeli.analysis.latent import arithmetic, decode_codes, embed, interpolate, reconstruct


@identity("R43", title="both ends of an interpolation are the reconstructions", tolerance=1e-10)
def interpolation_ends() -> float:
    x = linear_data(50, 5)
    model = fitted_ppca(x, 2)
    z, ends = embed(model, x[:2]), reconstruct(model, x[:2])
    walks = [decode_codes(model, interpolate(z[0], z[1], 6, path)) for path in ("linear", "spherical")]
    return max((walk[[0, -1]] - ends).abs().max().item() for walk in walks)


@identity("R44", title="linear decoder: a − b + c in codes is a − b + c in reconstructions", tolerance=1e-10)
def code_arithmetic() -> float:
    x = linear_data(50, 5)
    model = fitted_ppca(x, 2)
    a, b, c = embed(model, x[:3])
    mean = reconstruct(model, x[:3])
    return (decode_codes(model, arithmetic([a, c], [b])[None])[0] - (mean[0] - mean[1] + mean[2])).abs().max().item()


@identity("R41", "R42", title="I_q(x; z) of the exact linear posterior = ½ log det(I + WᵀW/σ²), in nats", tolerance=0.15)
def latent_information() -> float:
    x = linear_data(1500, 4, 2, noise=1.5)
    ppca = fitted_ppca(x, 2)
    found = diagnose_latents(as_vae(ppca), x, draws=1, rows=1500)
    truth = 0.5 * torch.logdet(torch.eye(2, dtype=torch.float64) + ppca.W.T @ ppca.W / ppca.variance).item()
    assert found.information is not None
    assert found.mismatch is not None
    return max(abs(found.information - truth), abs(found.mismatch))


@identity("R42", title="codes in two heaps under one Gaussian prior: KL(q̄‖p) below the alarm's 0.1 nats by", tolerance=0)
def two_heaps_are_a_mismatch() -> float:
    heaps = torch.where(torch.arange(800) % 2 == 0, 2.0, -2.0)[:, None].double()
    x = heaps @ torch.ones(1, 4, dtype=torch.float64) + 0.3 * torch.randn(800, 4, dtype=torch.float64)
    found = diagnose_latents(as_vae(fitted_ppca(x, 1)), x, draws=1)
    return max(0.0, 0.1 - (found.mismatch or 0.0)) + float(not any("prior mismatch" in a for a in found.alarms))

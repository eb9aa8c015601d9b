"""Autoencoders against closed forms: PCA, the optimal linear denoiser, the autograd Jacobian."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from likeli.errors import InputError, Unsupported
from likeli.models.autoencoder import AE, CAE, DAE
from likeli.random import seeded
from likeli.spaces import Pixels, Real


def minimise(loss, parameters, steps=200):
    optimiser = torch.optim.LBFGS(list(parameters), max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-16,
                                  history_size=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def correlated(n=400, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    scale = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2], dtype=torch.float64)[:d]
    rotation = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    x = torch.randn(n, d, generator=g, dtype=torch.float64) * scale @ rotation
    return x - x.mean(0)


def test_linear_autoencoder_spans_the_principal_subspace():
    """R30: angle below 1e-4, since ‖f(g(x)) − x‖² has no other minimum (Baldi & Hornik 1989)."""
    x = correlated()
    with seeded(0):
        model = AE(Real((5,)), latent_dim=2, hidden=()).double()
    minimise(lambda: model.loss(x).mean(), model.parameters(), steps=500)
    principal = np.linalg.svd(x.numpy(), full_matrices=False)[2][:2].T
    assert subspace_angles(model.decoder[0].weight.detach().numpy(), principal).max() < 1e-4


def test_linear_denoiser_is_the_optimal_one_and_reads_the_score():
    """R31, I13: on Gaussian data E[x|x̃] = Σ(Σ+σ²I)⁻¹x̃, so (r − x)/σ² = −(Σ+σ²I)⁻¹x = ∇ log p_σ.

    The expectation over ε is taken exactly: for a linear r, E‖r(x+σε) − x‖² = ‖r(x) − x‖² + σ²‖W‖²_F.
    """
    x, sigma = correlated(), 0.5
    with seeded(0):
        model = DAE(Real((5,), scale=2.0), noise_std=sigma, latent_dim=5, hidden=()).double()
    u = model.space.to_model(x, torch.float64)

    def loss():
        w = model.decoder[0].weight @ model.encoder[0].weight
        return model.reconstruction_error(x).mean() + sigma**2 * w.square().sum()

    minimise(loss, model.parameters(), steps=1000)
    covariance = u.T @ u / len(u) + sigma**2 * torch.eye(5, dtype=torch.float64)
    expected = -torch.linalg.solve(covariance, u.T).T / 2.0  # per user unit: u = x / 2
    assert torch.allclose(model.score(x), expected, atol=1e-5)


def test_denoising_loss_has_the_expectation_of_its_closed_form():
    """The mean over ε of the loss is ‖r(x) − x‖² + σ²‖W‖²_F; 4 s.e. (false alarm 6e-5)."""
    x, sigma = correlated(n=1), 0.5
    with seeded(0):
        model = DAE(Real((5,)), noise_std=sigma, latent_dim=5, hidden=()).double()
        draws = model.loss(x.expand(20000, 5)).detach()
    w = model.decoder[0].weight @ model.encoder[0].weight
    expected = (model.reconstruction_error(x) + sigma**2 * w.square().sum()).item()
    assert abs(draws.mean().item() - expected) < 4 * draws.std().item() / len(draws) ** 0.5


@pytest.mark.parametrize("activation", ["softplus", "silu", "tanh"])
def test_contractive_penalty_is_the_autograd_jacobian(activation):
    """R32, I14: relative 1e-10 in float64."""
    with seeded(0):
        model = CAE(Real((6,)), latent_dim=4, hidden=16, activation=activation, penalty=0.7).double()
        x = torch.randn(8, 6, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(model.encoder))(x)
    expected = jacobian.square().sum((1, 2))
    assert torch.allclose(model.jacobian_norm(x), expected, rtol=1e-10)
    assert torch.allclose(model.loss(x), model.reconstruction_error(x) + 0.7 * expected, rtol=1e-10)


def test_denoising_penalty_tends_to_the_reconstruction_contraction():
    """I14: E‖r(x+σε) − x‖² − ‖r(x) − x‖² = σ²(‖∂r/∂x‖²_F + (r−x)·Δr) + O(σ⁴): the excess falls with slope 4 in σ.

    Gauss–Hermite quadrature over ε in one dimension makes it deterministic.
    """
    with seeded(1):
        model = DAE(Real((1,)), latent_dim=1, hidden=(8,), activation="tanh").double()
    def r(u):
        return model.decoder(model.encoder(u))
    x = torch.tensor([[0.3]], dtype=torch.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    slope = torch.func.jacrev(lambda u: r(u).sum())
    first, second = slope(x).item(), torch.func.jacrev(lambda u: slope(u).sum())(x).item()
    gap = (r(x) - x).item()
    excess = []
    for sigma in (0.2, 0.1, 0.05):
        noisy = ((r(x + sigma * nodes[:, None]) - x).square()[:, 0] * weights).sum().item()
        excess.append(abs(noisy - gap**2 - sigma**2 * (first**2 + gap * second)))
    slopes = np.diff(np.log(excess)) / np.log(0.5)
    assert (slopes > 3.7).all()


def test_contraction_flattens_directions_off_the_manifold():
    """R32: as λ grows the encoder's smallest singular value (off a line in the plane) falls relative to the largest."""
    g = torch.Generator().manual_seed(0)
    t = torch.randn(512, 1, generator=g)
    x = torch.cat([t, t], 1) + 0.05 * torch.randn(512, 2, generator=g)
    off = []
    for penalty in (0.0, 0.3):
        with seeded(0):
            model = CAE(Real((2,)), penalty=penalty, latent_dim=2, hidden=32)
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(400):
            optimiser.zero_grad()
            model.loss(x).mean().backward()
            optimiser.step()
        jacobian = torch.func.vmap(torch.func.jacrev(model.encoder))(x)
        normal = torch.tensor([1.0, -1.0]) / 2**0.5
        off.append((jacobian @ normal).norm(dim=1).mean().item())
    assert off[1] < 0.2 * off[0]


def test_what_an_autoencoder_cannot_do_is_said():
    for model in (AE(Real((3,))), DAE(Real((3,))), CAE(Real((3,)))):
        with pytest.raises(Unsupported, match="p\\(x\\)"):
            model.sample(2)
        with pytest.raises(Unsupported, match="vae"):
            model.log_likelihood(torch.zeros(2, 3))
    with pytest.raises(Unsupported, match="real data"):
        DAE(Pixels((2, 2), 4)).score(torch.zeros(1, 2, 2, dtype=torch.uint8))
    for bad in (dict(latent_dim=0), dict(hidden=(0,)), dict(activation="sine")):
        with pytest.raises(InputError, match=next(iter(bad))):
            AE(Real((3,)), **bad)


def test_reconstruction_of_pixels_is_valid_pixels():
    model = AE(Pixels((4, 4), 17))
    x = torch.randint(0, 17, (5, 4, 4), dtype=torch.uint8)
    r = model.reconstruct(x)
    model.space.check(r)
    assert r.shape == x.shape

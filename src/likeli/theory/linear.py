"""The linear rungs: mixtures, probabilistic PCA, linear autoencoders, EM."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import stats
from sklearn import decomposition, mixture
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from torch import distributions as D

from likeli.evaluation.rows import classify
from likeli.models.autoencoder import AE
from likeli.models.gmm import GMM
from likeli.models.ppca import PPCA
from likeli.spaces import Real
from likeli.theory.check import identity
from likeli.theory.truth import as_vae, fitted_ppca, linear_data, minimise


def _gmm(d: int = 2, k: int = 3) -> GMM:
    a = torch.randn(k, d, d, dtype=torch.float64)
    covariances = a @ a.mT + 0.2 * torch.eye(d, dtype=torch.float64)
    return GMM.from_parameters(Real((d,)), torch.rand(k).double().softmax(0), 2 * torch.randn(k, d).double(), covariances)


@identity("R11", "R13", title="GMM: log Σ_k p(k) p(x|k) = log p(x), by torch's own mixture", tolerance=1e-10)
def gmm_marginal() -> float:
    model, x = _gmm(), 3 * torch.randn(50, 2, dtype=torch.float64)
    parts = D.MultivariateNormal(model.joint.means, scale_tril=model.joint[2])
    truth = D.MixtureSameFamily(D.Categorical(model.weights), parts).log_prob(x)
    return (model.log_likelihood(x).value - truth).abs().max().item()


@identity("R1", "I2", title="GMM and PPCA densities of the plane integrate to 1", tolerance=1e-6)
def exact_mass() -> float:
    axis = torch.linspace(-25, 25, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    models = [_gmm(), fitted_ppca(linear_data(d=2, latents=1), 1)]
    densities = [m.log_likelihood(grid).value.exp().reshape(801, 801) for m in models]
    return max(abs(torch.trapezoid(torch.trapezoid(p, axis), axis).item() - 1) for p in densities)


@identity("R2", "I2", title="GMM samples follow its density: KS over 20 seeds, in critical values", tolerance=1)
def gmm_sampler() -> float:
    model = _gmm()
    spread = model.joint[2].square().sum(-1).sqrt()
    worst = 1.0
    for seed in range(20):
        x = model.sample(500, seed=seed).numpy()

        def cdf(v: np.ndarray, j: int = 0) -> np.ndarray:
            parts = stats.norm.cdf(v[:, None], model.joint.means[:, j].numpy(), spread[:, j].numpy())
            return parts @ model.weights.numpy()

        worst = min(worst, stats.kstest(x[:, 0], cdf).pvalue)
    return 0.001 / 20 / worst  # false alarm 1e-3 over all seeds


@identity("R13", title="GMM: log p and BIC are scikit-learn's at equal parameters", tolerance=1e-8)
def gmm_is_scikit_learns() -> float:
    x = linear_data(300, 3)
    theirs = mixture.GaussianMixture(3, random_state=0).fit(x.numpy())
    ours = GMM.from_parameters(Real((3,)), theirs.weights_, theirs.means_, theirs.covariances_)
    log_p = np.abs(ours.log_likelihood(x).value.numpy() - theirs.score_samples(x.numpy())).max()
    return max(log_p, abs(ours.bic(x) / theirs.bic(x.numpy()) - 1))


@identity("R15", "I5", title="EM never lowers the log-likelihood (GMM and PPCA): largest fall in nats", tolerance=1e-12)
def em_is_monotone() -> float:
    x = linear_data(300, 4)
    runs = [GMM(Real((4,)), 4, tol=0.0, max_iter=40).em(x), PPCA(Real((4,)), 2, solver="em", tol=0.0, max_iter=40).em(x)]
    return max(max(0.0, a - b) for run in runs for a, b in itertools.pairwise(list(run)))


@identity("R15", "R21", "I5", title="GMM after an E-step: E_q log p(x, k) + H(q) = log p(x)", tolerance=1e-10)
def e_step_closes_the_gap() -> float:
    model, x = _gmm(), 3 * torch.randn(50, 2, dtype=torch.float64)
    q = model.responsibilities(x)
    parts = D.MultivariateNormal(model.joint.means, scale_tril=model.joint[2])
    joint = parts.log_prob(x[:, None]) + model.weights.log()
    bound = (q * joint).sum(1) - torch.xlogy(q, q).sum(1)
    return (bound - model.log_likelihood(x).value).abs().max().item()


@identity("R13", "R14", "I3", title="max log-likelihood: GMM(K=1) = full Gaussian = PPCA(L = D−1)", tolerance=1e-8)
def one_gaussian_three_ways() -> float:
    x = linear_data(300, 4)
    truth = D.MultivariateNormal(x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)).log_prob(x).mean()
    gmm = GMM(Real((4,)), 1, regularization=1e-14)
    for _ in gmm.em(x):
        pass
    values = [m.log_likelihood(x).value.mean() for m in (gmm, fitted_ppca(x, 3))]
    return max(abs((v - truth).item()) for v in values)


@identity("R14", "I4", title="PPCA = N(b, WWᵀ + σ²I), and scikit-learn's score", tolerance=1e-8)
def ppca_is_a_gaussian() -> float:
    x = linear_data(300, 6)
    model = fitted_ppca(x, 2)
    log_p = model.log_likelihood(x).value
    covariance = model.W @ model.W.T + model.variance * torch.eye(6, dtype=torch.float64)
    direct = D.MultivariateNormal(model.b, covariance).log_prob(x)
    theirs = decomposition.PCA(2).fit(x.numpy())
    # scikit-learn divides by n − 1: the same model has its eigenvalues scaled by (n − 1)/n
    scaled = PPCA(Real((6,)), 2)
    scaled.load_state_dict(model.state_dict())
    scaled.W.mul_(math.sqrt(300 / 299))
    scaled.variance.mul_(300 / 299)
    against = np.abs(scaled.log_likelihood(x).value.numpy() - theirs.score_samples(x.numpy())).max()
    return max((log_p - direct).abs().max().item(), against)


@identity("R14", title="EM and the eigenvectors reach one PPCA likelihood", tolerance=1e-6)
def ppca_em_reaches_the_eigen_solution() -> float:
    x = linear_data(300, 6)
    em = PPCA(Real((6,)), 2, solver="em", tol=1e-13, max_iter=5000)
    em.fit_closed_form(x)
    return abs((em.log_likelihood(x).value.mean() - fitted_ppca(x, 2).log_likelihood(x).value.mean()).item())


@identity("R14", "R47", "I34", title="PPCA's missing cells: mean and covariance are Gaussian conditioning", tolerance=1e-10)
def ppca_fills_holes() -> float:
    x = linear_data(100, 5)
    model = fitted_ppca(x, 2)
    holed = x[:1].clone()
    holed[0, [1, 3]] = math.nan
    covariance = model.W @ model.W.T + model.variance * torch.eye(5, dtype=torch.float64)
    a, o = torch.tensor([1, 3]), torch.tensor([0, 2, 4])
    gain = torch.linalg.solve(covariance[o][:, o], covariance[o][:, a]).T
    mean = model.b[a] + gain @ (holed[0, o] - model.b[o])
    spread = covariance[a][:, a] - gain @ covariance[o][:, a]
    given = model.conditional(holed)
    error = (given.mean[0, a] - mean).abs().max(), (given.covariance[0][a][:, a] - spread).abs().max()
    return max(e.item() for e in error)


@identity("R39", title="PPCA draws have covariance WWᵀ + σ²I, worst entry in standard errors", tolerance=4.5)
def ppca_draws() -> float:
    model = fitted_ppca(linear_data(300, 4), 2)
    truth = model.W @ model.W.T + model.variance * torch.eye(4, dtype=torch.float64)
    x = model.sample(4000)
    scale = truth.diagonal().sqrt()
    stderr = ((truth / scale / scale[:, None]).square() + 1).sqrt() * scale * scale[:, None] / math.sqrt(4000)
    return ((x.T.cov() - truth) / stderr).abs().max().item()


@identity("R48", title="BIC of PPCA peaks at the true rank: distance", tolerance=0)
def bic_finds_the_rank() -> float:
    x = linear_data(600, 8, 3)
    scores = [fitted_ppca(x, rank).bic(x) for rank in range(1, 7)]
    return abs(int(np.argmin(scores)) + 1 - 3)


@identity("R30", "I4", title="the best linear autoencoder spans PCA's subspace: largest angle", tolerance=1e-4)
def linear_autoencoder_is_pca() -> float:
    x = linear_data(200, 5)
    x = x - x.mean(0)
    model = AE(Real((5,)), 2, hidden=()).double()
    minimise(lambda: model.loss(x).mean(), list(model.parameters()))
    ours = torch.linalg.qr(model.decoder[-1].weight.detach())[0]
    theirs = torch.linalg.svd(x, full_matrices=False)[2][:2].T
    return math.acos(min(1.0, torch.linalg.svdvals(ours.T @ theirs).min().item()))


@identity("R106", "I34", title="one Gaussian a class: p(class|x) by Bayes is scikit-learn's QDA", tolerance=1e-8)
def bayes_is_qda() -> float:
    x = torch.cat([linear_data(100, 3, seed=1), linear_data(150, 3, seed=2) + 0.5])
    labels = np.repeat([0, 1], [100, 150])
    theirs = QuadraticDiscriminantAnalysis(store_covariance=True).fit(x.numpy(), labels)
    ours = [
        GMM.from_parameters(Real((3,)), [1.0], mean[None], covariance[None])
        for mean, covariance in zip(theirs.means_, theirs.covariance_)
    ]
    found = classify(ours, x, prior=theirs.priors_)
    bounded = classify([as_vae(fitted_ppca(x, 2))] * 2, x, samples=1)
    mislabelled = float(not found.exact) + float(bounded.exact)
    return mislabelled + float(np.abs(found.log_posterior.exp().numpy() - theirs.predict_proba(x.numpy())).max())

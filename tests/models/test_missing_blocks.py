"""Conditioning on the observed cells by blocks of the precision, against blocks of the covariance and a row at a time."""

import math

import pytest
import torch

from likeli.gaussian.missing import COARSEST, condition, conditioned, group_rows, precision

F64 = torch.float64


def gaussians(k, d, least, seed):
    """Means, and covariances whose eigenvalues fall evenly in log from 1 to `least`."""
    g = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(k, d, d, dtype=F64, generator=g))[0]
    values = torch.logspace(0, math.log10(least), d, dtype=F64)
    return torch.randn(k, d, dtype=F64, generator=g), axes * values @ axes.mT


@pytest.mark.parametrize("d, share", [(3, 0.3), (9, 0.2), (9, 0.05), (9, 0.0), (12, 0.45)])
def test_both_blocks_give_the_same(d, share):
    """Every row, its own closed form: log N(x_o), E[x|x_o] and Var[x|x_o], to ten times ε times the condition of 1e3."""
    allowed = {"rtol": 1e4 * torch.finfo(F64).eps, "atol": 1e4 * torch.finfo(F64).eps}
    means, covariances = gaussians(2, d, 1e-3, d)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(40, d, dtype=F64, generator=g)
    x[torch.rand(x.shape, generator=g) < share] = math.nan
    groups, seen = group_rows(~x.isnan(), 2), 0
    for group, given in conditioned(x, groups, means, covariances):
        other = condition(x[group.rows], group.observed, means, covariances)
        flat = torch.zeros(len(group.observed), 2, d * d, dtype=F64)
        dense = flat.scatter(2, given.places().flatten(1)[:, None].expand(-1, 2, -1), given.covariance.flatten(2))
        torch.testing.assert_close(given.log_prob, other.log_prob, **allowed)
        torch.testing.assert_close(given.shift, other.shift, **allowed)
        torch.testing.assert_close(dense.unflatten(2, (d, d)), other.covariance, **allowed)
        for p, r in group.real.nonzero().tolist():
            o, row = group.observed[p], x[group.rows[p, r]]
            for k in range(2):
                block = covariances[k][o][:, o]
                truth = torch.distributions.MultivariateNormal(means[k][o], block).log_prob(row[o]) if o.any() else 0.0
                assert given.log_prob[p, k, r].item() == pytest.approx(float(truth), rel=1e-11, abs=1e-11)
            seen += 1
    assert seen == len(x)


def test_a_covariance_near_to_singular_is_not_inverted():
    """A condition of COARSEST/ε is the edge; beyond it the covariance's own blocks are used, and log p stays right."""
    edge = torch.finfo(F64).eps / COARSEST
    assert precision(gaussians(1, 6, 4 * edge, 0)[1]) is not None
    means, covariances = gaussians(1, 6, edge / 4, 0)
    assert precision(covariances) is None
    x = torch.zeros(1, 6, dtype=F64)
    x[0, 2] = math.nan
    ((_, given),) = conditioned(x, None, means, covariances)
    o = ~x[0].isnan()
    truth = torch.distributions.MultivariateNormal(means[0][o], covariances[0][o][:, o]).log_prob(x[0, o])
    assert given.log_prob.item() == pytest.approx(truth.item(), rel=1e-9)


def test_batches_hold_every_row_once_and_like_blocks_stand_together():
    g = torch.Generator().manual_seed(2)
    observed = torch.rand(300, 20, generator=g) > 0.2
    groups = group_rows(observed, 3)
    rows = torch.cat([group.rows[group.real] for group in groups])
    assert sorted(rows.tolist()) == list(range(300))
    for group in groups:
        assert torch.equal(observed[group.rows[group.real]], group.observed.repeat_interleave(group.real.sum(1), 0))

"""Streams, seeds and orders: what a random number depends on, and on nothing else."""

import math

import pytest
import torch
from scipy import stats

from likeli.errors import InputError
from likeli.random import BLOCK, Ambient, Replay, Streams, blocks, derive, permutation, seeded


def test_a_row_depends_on_its_seed_index_and_past_alone():
    together = Streams(3, range(10))
    first, second = together.normal(4), together.uniform(2, 2)
    for i in (0, 7):
        alone = Streams(3, [i])
        assert torch.equal(alone.normal(4)[0], first[i])
        assert torch.equal(alone.uniform(2, 2)[0], second[i])
    assert not torch.equal(Streams(4, range(10)).normal(4), first)


def test_streams_are_standard_normal_and_uniform_across_rows():
    """Kolmogorov–Smirnov over 20 seeds at a false-alarm rate of 1e-3 in all (Bonferroni)."""
    for seed in range(20):
        streams = Streams(seed, range(400), torch.float64)
        assert stats.kstest(streams.normal(2).flatten().numpy(), "norm").pvalue > 1e-3 / 40
        assert stats.kstest(streams.uniform(2).flatten().numpy(), "uniform").pvalue > 1e-3 / 40


def test_neighbouring_rows_and_seeds_are_uncorrelated():
    a, b = Streams(0, range(2000)).normal(1)[:, 0], Streams(1, range(2000)).normal(1)[:, 0]
    for pair in ((a[1:], a[:-1]), (a, b)):
        assert abs(torch.corrcoef(torch.stack(pair))[0, 1]) < 4 / math.sqrt(2000)


def test_a_derived_seed_is_a_function_of_every_key():
    seeds = {derive(s, *keys) for s in (0, 1) for keys in ((), ("a",), ("a", 1), ("a", "1"), ("b", 1), (1, "a"))}
    assert len(seeds) == 12
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive(7, "order", 3) == derive(7, "order", 3)


def test_seeded_gives_the_same_draws_and_puts_the_callers_state_back_also_after_an_error():
    before = torch.get_rng_state()
    with seeded(1, "x"):
        first = torch.randn(3)
    with pytest.raises(ValueError), seeded(1, "x"):
        assert torch.equal(torch.randn(3), first)
        raise ValueError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_permutation_is_one_and_changes_with_the_epoch():
    orders = [permutation(50, 0, epoch) for epoch in range(3)]
    assert all(torch.equal(o.sort().values, torch.arange(50)) for o in orders)
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1], permutation(50, 0, 1))


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_blocks_are_full_aligned_and_cover_every_sample(n):
    parts = list(blocks(n))
    assert all(len(p) == BLOCK and p.start % BLOCK == 0 for p in parts)
    assert (len(parts) - 1) * BLOCK < n <= len(parts) * BLOCK


def test_ambient_follows_the_dtype_of_its_example_and_floats_for_integers():
    with seeded(0):
        assert Ambient(torch.zeros(3, dtype=torch.float64)).normal(2).dtype == torch.float64
        assert Ambient(torch.zeros(3, dtype=torch.long)).uniform(2).dtype == torch.get_default_dtype()
        assert Ambient(torch.zeros(3), rows=5).normal(2).shape == (5, 2)


def test_replay_serves_in_order_and_refuses_a_wrong_shape_or_an_empty_store():
    given = [torch.randn(2, 3), torch.rand(2)]
    noise = Replay(given)
    assert noise.rows == 2
    assert noise.normal(3) is given[0]
    with pytest.raises(InputError, match="shape"):
        noise.uniform(4)
    with pytest.raises(InputError, match="too few"):
        noise.normal(3)

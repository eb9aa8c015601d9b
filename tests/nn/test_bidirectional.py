"""Networks of symbols: what an attention that turns its features sees, and which cells a guess sees."""

from functools import partial

import torch

from likeli.nn.bidirectional import SymbolPerceptron, SymbolTransformer
from likeli.nn.recurrence import SymbolRecurrence
from likeli.nn.transformer import attend, turned, turns
from likeli.random import seeded


def test_products_of_turned_features_depend_on_the_distance_alone():
    with seeded(0):
        q, k = torch.randn(2, 6)
    turn = turns(20, 6)
    q, k = (turned(v.expand(20, 6), turn) for v in (q, k))
    products = q @ k.T
    for far in (0, 3, 11):
        assert torch.allclose(products.diagonal(far), products.diagonal(far)[:1].expand(20 - far), atol=1e-5)
    assert (products[0] - products[0, 0]).abs()[1:].min() > 1e-4
    assert torch.allclose(q.norm(dim=1), q[0].norm().expand(20), atol=1e-5)


def test_an_odd_feature_is_left_as_it_is_and_attention_without_turns_is_the_same():
    with seeded(0):
        v, qkv = torch.randn(4, 5), torch.randn(2, 4, 15)
    assert torch.equal(turned(v, turns(4, 5))[:, 4], v[:, 4])
    still = torch.stack([torch.ones(4, 2), torch.zeros(4, 2)])
    assert torch.allclose(attend(qkv, 1, still), attend(qkv, 1))


def test_columns_of_a_table_have_embeddings_of_their_own_and_every_guess_sees_every_cell():
    with seeded(0):
        for alike in (True, False, None):
            of = SymbolPerceptron if alike is None else partial(SymbolTransformer, alike=alike)
            net = of([3, 4, 4], 3, (8, 8))
            for p in net.parameters():
                p.data.normal_(std=0.3)
            z = torch.tensor([[0, 1, 2], [1, 1, 2], [0, 1, 3]])
            out = net(z, torch.zeros(3))
            assert out.shape == (3, 3, 3)
            assert (out[0] != out[1]).any(1).all()
            assert (out[0] != out[2]).any(1).all()
            assert net.embed.num_embeddings == (4 if alike else 11)  # of a perceptron 11 as well


def test_lstms_from_both_ends_see_every_cell_and_the_time_if_told():
    with seeded(0):
        for timed in (False, True):
            net = SymbolRecurrence([4, 4, 4, 4], 3, (6, 6), timed=timed).double()
            for p in net.parameters():
                p.data.normal_(std=0.5)
            z = torch.tensor([[0, 1, 2, 3]]).repeat(5, 1)
            z[range(1, 5), range(4)] = torch.tensor([1, 2, 3, 0])
            out = net(z, torch.zeros(5, dtype=torch.float64))
            assert out.shape == (5, 4, 3)
            assert (out[1:] - out[0]).abs().amin((1, 2)).min() > 1e-6
            later = net(z, torch.full((5,), 3.0, dtype=torch.float64))
            assert (later - out).abs().max() > 1e-3 if timed else torch.equal(later, out)

"""Scenes of one object or two: their factors read back, their captions true of them and of no others."""

import pytest
import torch

from likeli.data import load_data
from likeli.data.builtin import scenes
from likeli.data.builtin.scenes import read_scenes, true_of, wanted
from likeli.errors import InputError


@pytest.mark.parametrize("size", [16, 32])
def test_every_factor_is_read_back(size):
    f = scenes.draw_scenes(60, seed=1)
    assert torch.equal(read_scenes(scenes.render(f, size)), f)
    one = scenes.draw_factors(30, seed=2)
    assert torch.equal(read_scenes(scenes.render(one, size), most=1)[:, :6], one)


def test_a_little_noise_changes_nothing_that_is_read():
    """σ = 6 grey levels on 3·32² cells: colours and counts stand; some form may be taken for its neighbour."""
    f = scenes.draw_scenes(40, seed=3)
    torch.manual_seed(0)
    found = read_scenes(scenes.render(f).float() + 6 * torch.randn(40, 3, 32, 32))
    assert (found == f).double().mean() > 0.98


def test_one_object_is_drawn_as_before_and_two_keep_to_their_halves():
    f = scenes.draw_factors(20, seed=4)
    alone = torch.cat([f, torch.full((20, 4), -1)], 1)
    assert torch.equal(scenes.render(alone), scenes.render(f))
    two = torch.cat([f, scenes.draw_factors(20, seed=5)[:, 2:]], 1)
    other = torch.cat([f, scenes.draw_factors(20, seed=6)[:, 2:]], 1)
    assert torch.equal(scenes.render(two)[..., :16], scenes.render(other)[..., :16])


def test_captions_are_true_of_their_picture_and_seldom_of_another():
    f = scenes.draw_scenes(60, seed=7)
    pictures, captions = scenes.render(f, 16), scenes.draw_captions(f, 7)
    assert true_of(pictures, captions)[1].all()
    assert true_of(pictures.flip(0), captions)[1].double().mean() < 0.2


def test_what_captions_say():
    assert wanted("two red bricks") == {2: 0, 3: 1, 6: 0, 7: 1}
    said = wanted("a small blue egg leaning far left left of a large red cross upright on a green floor before a violet wall")
    assert said == {0: 3, 1: 5, 2: 4, 3: 0, 4: 0, 5: 0, 6: 0, 7: 3, 8: 2, 9: 2}
    assert wanted("A red brick.") == {2: 0, 3: 1, 6: -1}
    with pytest.raises(InputError, match="a colour and a shape"):
        wanted("a purple cube")


def test_unseen_pairs_are_left_out_and_nothing_else():
    data = load_data("scenes:n=400,size=16,objects=2,unseen=1", labels="captions")
    f = data.extras["factors"]
    assert not scenes.held_out(f).any()
    assert {(int(a), int(b)) for a, b in f[:, 2:4]} == {
        (c, s) for c in range(6) for s in range(4) if not scenes.held_out(torch.tensor([[0, 0, c, s, 0, 0]]))
    }
    assert data.condition.alphabet.size == len(set(scenes.SPOKEN.split()))
    texts = data.condition.decode(data.y)
    assert texts == data.extras["captions"]


def test_labels_and_options_that_do_not_exist():
    with pytest.raises(InputError, match="captions, or a factor"):
        load_data("scenes:n=10", labels="caption")
    with pytest.raises(InputError, match="objects"):
        load_data("scenes:n=10,objects=3")

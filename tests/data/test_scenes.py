"""Scenes: the factors can be read back from the picture, and nothing else is in it."""

from __future__ import annotations

import torch
from scipy import stats

from likeli.data import load_data
from likeli.data.builtin import scenes


def every_form() -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(len(v)) for v in list(scenes.FACTORS.values())[3:]])


def test_pictures_are_a_function_of_their_factors():
    f = scenes.draw_factors(20, seed=4)
    assert torch.equal(scenes.render(f), torch.cat([scenes.render(row[None]) for row in f]))
    assert torch.equal(f, scenes.draw_factors(20, seed=4))
    assert not torch.equal(f, scenes.draw_factors(20, seed=5))


def test_factors_are_uniform_and_independent():
    """Chi-square tests of 6 margins and 15 pairs, each with a false alarm of 1e-4, seed fixed."""
    f = scenes.draw_factors(20_000, seed=1)
    sizes = [len(v) for v in scenes.FACTORS.values()]
    for i, k in enumerate(sizes):
        assert stats.chisquare(torch.bincount(f[:, i], minlength=k).numpy()).pvalue > 1e-4
        for j in range(i):
            pair = torch.bincount(f[:, i] * sizes[j] + f[:, j], minlength=k * sizes[j])
            assert stats.chisquare(pair.numpy()).pvalue > 1e-4


def test_every_combination_of_factors_gives_its_own_picture():
    """60 forms pairwise, and colours one at a time, differ by more than one grey level on average in some patch."""
    forms = every_form()
    base = torch.tensor([0, 3, 4]).expand(len(forms), 3)
    pictures = scenes.render(torch.cat([base, forms], 1)).float().flatten(1)
    distance = torch.cdist(pictures, pictures) + 1e9 * torch.eye(len(forms))
    assert distance.min() > 40
    for i in range(3):
        rows = torch.tensor([[5, 2, 1, 1, 1, 1]]).repeat(6, 1)
        rows[:, i] = torch.arange(6)
        pictures = scenes.render(rows).float().flatten(1)
        assert (torch.cdist(pictures, pictures) + 1e9 * torch.eye(6)).min() > 100


def test_colours_are_where_they_should_be():
    """At the lower edge the floor is at full light, at the upper edge the wall; the object's centre has its own colour."""
    f = scenes.draw_factors(50, seed=2)
    f[:, 4] = 2
    pictures = scenes.render(f, 64).float()
    palette = torch.tensor(list(scenes.COLOURS.values())).float()
    assert ((pictures[:, :, -1].mean(2) - palette[f[:, 0]]).abs() < 3).all()
    assert ((pictures[:, :, 0].mean(2) - palette[f[:, 1]]).abs() < 3).all()
    centre = pictures[:, :, 33, 32]
    cosine = torch.nn.functional.cosine_similarity(centre[:, None], palette[None], dim=2)
    assert torch.equal(cosine.argmax(1), f[:, 2])


def test_a_larger_picture_shows_the_same_scene():
    """Averaged down to 32 pixels, the 96-pixel picture is the 32-pixel one but for antialiasing at outlines."""
    f = scenes.draw_factors(40, seed=3)
    small = torch.nn.functional.avg_pool2d(scenes.render(f, 96).float(), 3)
    difference = (small - scenes.render(f, 32).float()).abs()
    assert difference.mean() < 1.5


def test_captions_name_the_six_factors():
    f = scenes.draw_factors(500, seed=0)
    captions = [scenes.caption(row) for row in f]
    by_caption = {}
    for text, row in zip(captions, f.tolist()):
        assert by_caption.setdefault(text, row) == row  # one caption, one scene
    assert captions[0].count(" ") >= 10


def test_as_a_source():
    data = load_data("scenes:n=60,size=16", labels="colour", seed=3)
    assert data.x.shape == (60, 3, 16, 16)
    assert data.x.dtype == torch.uint8
    assert torch.equal(data.y, data.extras["factors"][:, 2])
    assert data.condition.names == tuple(scenes.COLOURS)
    assert data.extras["captions"][7] == scenes.caption(data.extras["factors"][7])
    assert torch.equal(scenes.render(data.extras["factors"], 16), data.x)

"""Captions as conditions: what the word encoder hears, and what it refuses."""

import pytest
import torch

import likeli
from likeli.errors import InputError
from likeli.nn.embedding import Conditioner
from likeli.spaces import Real, caption_space

SPACE = caption_space(["a red egg left of a blue brick", "two red bricks"])


def heard(conditioner, *texts):
    y = SPACE.check(list(texts))
    return conditioner(y, torch.zeros(len(y)))


def test_words_their_places_and_nothing_behind_the_end():
    torch.manual_seed(0)
    c = Conditioner(SPACE, 0.1).eval()
    texts = ("a red egg left of a blue brick", "a blue egg left of a red brick", "A red egg, left of a BLUE brick.")
    a, b, again = heard(c, *texts)
    assert torch.equal(a, again)
    assert (a - b).abs().max() > 1e-3  # one bag of words
    longer = Conditioner(SPACE, 0.1).eval()
    longer.load_state_dict(c.state_dict())
    with torch.no_grad():
        longer.words.embed.weight[SPACE.end] += 5.0
    assert torch.equal(heard(longer, "a red egg"), heard(c, "a red egg"))


def test_no_word_is_the_null_token():
    c = Conditioner(SPACE, 0.1).eval()
    assert torch.equal(heard(c, "", ""), c(None, torch.zeros(2)))
    assert heard(c, "")[0, -1] == 1
    assert heard(c, "red")[0, -1] == 0
    assert heard(Conditioner(SPACE).eval(), "").isfinite().all()


def test_an_unknown_word_is_refused_by_name():
    with pytest.raises(InputError, match="unknown word 'purple'"):
        SPACE.check(["a purple egg"])
    with pytest.raises(InputError, match="did you mean brick"):
        SPACE.check(["a red brik"])
    with pytest.raises(InputError, match="at most 8 symbols"):
        SPACE.check(["a " * 9])


def test_a_model_of_captions_survives_its_folder(tmp_path):
    model = likeli.VDM(Real((2,)), hidden=(8,), network="mlp", condition=SPACE)
    with torch.no_grad():
        for p in model.denoiser.net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    likeli.save(model, tmp_path / "run")
    again = likeli.load(tmp_path / "run")
    texts = ["two red bricks", "a red egg"]
    assert torch.equal(model.sample(2, texts, steps=3, guidance=2.0), again.sample(2, texts, steps=3, guidance=2.0))
    assert not torch.equal(model.sample(1, texts[:1], steps=3), model.sample(1, texts[1:], steps=3))

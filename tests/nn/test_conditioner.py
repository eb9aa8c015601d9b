"""Captions as conditions: what the word encoder hears, and what it refuses."""

import pytest
import torch

import likeli
from likeli.errors import InputError
from likeli.nn.embedding import Caption, Conditioner, ConditionPlanes, null_of
from likeli.nn.transformer import CrossAttention, Transformer
from likeli.nn.unet import UNet
from likeli.spaces import Pixels, Real, caption_space

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


def test_a_hidden_caption_is_hidden_from_the_mean_and_from_the_words_at_once():
    torch.manual_seed(0)
    c = Conditioner(SPACE, 0.5).train()
    y = SPACE.check(["two red bricks"] * 400)
    said = c.read(y, torch.zeros(400))
    hidden = ~said.seen.any(1)
    assert 150 < hidden.sum() < 250  # five standard errors of a fair coin
    assert torch.equal(c(said, torch.zeros(400))[:, -1] == 1, hidden)
    assert (said.seen.sum(1)[~hidden] == 3).all()


def test_cross_attention_is_that_of_torch_over_the_words_that_are_there_and_one_more():
    torch.manual_seed(0)
    ours = CrossAttention(128, 64).double()
    torch.nn.init.normal_(ours.leave.weight)
    theirs = torch.nn.MultiheadAttention(128, ours.heads, kdim=64, vdim=64, batch_first=True).double()
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.ask.weight)
        theirs.k_proj_weight.copy_(ours.enter.weight[:128])
        theirs.v_proj_weight.copy_(ours.enter.weight[128:])
        theirs.in_proj_bias.copy_(torch.cat([ours.ask.bias, ours.enter.bias]))
        theirs.out_proj.load_state_dict(ours.leave.state_dict())
    h, features = torch.randn(3, 5, 128).double(), torch.randn(3, 4, 64).double()
    seen = torch.tensor([[True, True, False, True], [False] * 4, [True] * 4])
    given = torch.cat([features, ours.nothing.expand(3, 1, 64)], 1)
    lost = torch.nn.functional.pad(~seen, (0, 1), value=False)
    truth = h + theirs(torch.nn.functional.layer_norm(h, (128,)), given, given, key_padding_mask=lost)[0]
    assert torch.allclose(ours(h, Caption(features, seen)), truth, atol=1e-12)


@pytest.mark.parametrize("network", [Transformer, UNet])
def test_a_network_hears_which_word_is_where_and_nothing_of_no_caption(network):
    torch.manual_seed(0)
    net = network((3, 8, 8), (32, 32), condition=Conditioner(SPACE, 0.1)).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    z, gamma = torch.randn(1, 3, 8, 8).double().expand(3, -1, -1, -1), torch.zeros(3).double()
    y = SPACE.check(["a red egg left of a blue brick", "a blue egg left of a red brick", ""])
    found = net(z, gamma, y)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert torch.allclose(found[2], net(z[:1], gamma[:1])[0], atol=1e-12)
    assert torch.allclose(found[0], net(z[:1], gamma[:1], y[:1])[0], atol=1e-12)
    assert torch.allclose(net(z, gamma, null_of(y))[0], found[2], atol=1e-12)


def test_pictures_with_captions_get_a_transformer():
    of = {c: likeli.FlowMatching(Pixels((3, 8, 8)), condition=c).denoiser.net for c in (SPACE, None)}
    assert [type(net).__name__ for net in of.values()] == ["Transformer", "UNet"]


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


def test_an_image_is_brought_to_size_and_says_where_it_is_missing():
    planes = ConditionPlanes.of(Conditioner(Real((2, 2)), 0.1), (4, 4)).eval()
    y, like = torch.tensor([[[1.0, 2.0], [3.0, float("nan")]]]), torch.zeros(1, 1, 4, 4)
    found = planes(y, like)
    assert torch.equal(found[0, 0], torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 0, 0], [3, 3, 0, 0]]))
    assert torch.equal(found[0, 1], torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]))
    assert torch.equal(planes(null_of(y), like), planes(None, like))
    colours = ConditionPlanes.of(Pixels((3, 2, 2)), (4, 4))
    assert colours(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), like)[0, :, 0, 0].tolist() == [-127 / 128 + -0.5 / 128] * 3 + [1]
    assert ConditionPlanes.of(Real((3,)), (4, 4)) is None


@pytest.mark.slow
def test_a_small_image_tells_a_denoiser_most_of_the_large_one():
    """At the noise end x̂ given the 4 × 4 means of an 8 × 8 digit errs less than half as much as x̂ without: at least half of
    the variance of digits lies in those means."""
    data = likeli.load_data("digits")
    x, _ = data.split("train")
    y = torch.nn.functional.avg_pool2d(x[:, None].float(), 2)[:, 0] / 8 - 1
    model = likeli.FlowMatching(data.space, hidden=(16, 16), condition=Real((4, 4)))
    likeli.fit(model, x, y, steps=150, progress=False)
    u, at = data.space.to_model(x[:256]), model.schedule.at(0.95)
    z = at.alpha.float() * u + at.sigma.float() * torch.randn(u.shape)
    with torch.no_grad():
        model.eval()
        told, blind = ((model.denoise(c)(z, at).x - u).square().mean().item() for c in (y[:256], null_of(y[:256])))
    assert told < 0.5 * blind
    assert model.sample(2, y[:2], steps=2, guidance=2.0).shape == (2, 8, 8)

"""Guidance of trained families: the ends to the bit, the cost, what is refused, and what it does to digits."""

import functools
import math

import pytest
import torch

import likeli
from likeli.contract import evaluating
from likeli.diffusion.guidance import Guidance, against
from likeli.diffusion.noisy_classifier import fit_noisy_classifier, load_classifier, save_classifier
from likeli.errors import CheckpointError, InputError, Unsupported
from likeli.nn.embedding import Conditioner, null_of
from likeli.spaces import Labels, Pixels, Real
from likeli.theory.guidance import two_class_model

Y = torch.tensor([0, 1, 1, 0])


def moved(model):
    """The model with its weights off zero, where every network of ours begins deaf."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                p.add_(0.1 * torch.randn_like(p))
    return model


FAMILIES = {
    "vdm": lambda **k: likeli.VDM(Real((2,)), network="mlp", hidden=(16,), condition=Labels(2), **k),
    "ddpm": lambda **k: likeli.DDPM(Pixels((3, 3), 4), predict="auto", steps=8, hidden=(16,), condition=Labels(2), **k),
    "edm": lambda **k: likeli.EDM(Real((2,)), hidden=(16,), condition=Labels(2), **k),
    "flow_matching": lambda **k: likeli.FlowMatching(Pixels((8, 8), 17), hidden=(8, 8), condition=Labels(2), **k),
    "score_sde": lambda **k: likeli.ScoreSDE(Real((2,)), hidden=(16,), condition=Labels(2), **k),
    "absorbing": lambda **k: likeli.DiscreteDiffusion(Pixels((3, 3), 4), hidden=(32,), condition=Labels(2), **k),
    "uniform": lambda **k: likeli.DiscreteDiffusion(
        Pixels((3, 3), 4), corruption="uniform", steps=4, hidden=(32,), condition=Labels(2), **k
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_both_ends_are_the_plain_models_to_the_bit(name):
    model = moved(FAMILIES[name]())
    null, drawn = torch.full((4,), -1), functools.partial(model.sample, steps=6)
    assert torch.equal(drawn(4, Y, guidance=1.0), drawn(4, Y))
    assert torch.equal(drawn(4, Y, guidance=0.0), drawn(4, null))
    assert not torch.equal(drawn(64, guidance=0.0, y=Y[:1]), drawn(64, Y[:1]))
    assert torch.isfinite(drawn(4, Y, guidance=3.0).double()).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_that_always_saw_its_condition_is_not_guided(name):
    model = FAMILIES[name](condition_dropout=0.0)
    for scale in (0.0, 2.0):
        with pytest.raises(InputError, match="condition_dropout"):
            model.sample(2, Y[:2], guidance=scale)
    with pytest.raises(InputError, match="labels from 0 to 1"):
        model.sample(2, torch.tensor([-1, 0]))
    model.sample(2, Y[:2], guidance=1.0, steps=6)


def test_the_number_of_symbols_is_guided_by_their_laws():
    """At each cell p ∝ p₀^(1−γ) p₁^γ, from two calls of the network."""
    model = moved(FAMILIES["absorbing"]())
    with evaluating(model), torch.no_grad():
        z, alpha = torch.full((4, 9), 4), torch.full((4,), 0.3, dtype=torch.float64)
        over = torch.zeros(4, 9, dtype=torch.bool)
        weak, strong = (model.guess(y, over)(z, alpha) for y in (null_of(Y), Y))
        from likeli.diffusion.guidance import sharpened

        found = sharpened(model.guess, Y, over, Guidance(3.0))(z, alpha)
    wanted = (weak.double().exp() ** -2 * strong.double().exp() ** 3)[..., :4]
    assert torch.allclose(found.double().exp()[..., :4], wanted / wanted.sum(-1, keepdim=True), atol=1e-5)
    with pytest.raises(Unsupported, match="scale"):
        model.sample(2, Y[:2], guidance=Guidance(2.0, rescale=0.5))


def test_a_pair_is_one_evaluation_of_twice_the_rows():
    """Beside the plain model's: as many calls, each of twice the rows; outside the interval the plain call alone."""
    model, seen = two_class_model().eval(), []
    model.denoiser.net.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    model.sample(4, Y, steps=6)
    plain, seen[:] = seen[:], []
    model.sample(4, Y, steps=6, guidance=2.0)
    assert seen == [2 * n for n in plain]
    seen.clear()
    model.sample(4, Y, steps=6, guidance=Guidance(2.0, interval=(0.1, 1.0)))
    assert len(seen) == len(plain)
    assert set(seen) == {plain[0], 2 * plain[0]}


def test_the_pair_is_what_two_calls_say():
    """To float32's rounding of one matrix product."""
    model = two_class_model().eval()
    z, at = torch.randn(4, 2), model.schedule.at(torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64))
    with torch.no_grad():
        found = model.guided(Y, 3.0)(z, at)
        weak, strong = (model.denoise(y)(z, at) for y in (null_of(Y), Y))
    assert torch.allclose(found.eps, weak.eps + 3 * (strong.eps - weak.eps), atol=1e-5)


def test_autoguidance_takes_any_denoiser():
    model, weaker = two_class_model().eval(), two_class_model().eval()
    z, at = torch.randn(4, 2), model.schedule.at(0.4)
    with torch.no_grad():
        found = model.guided(Y, Guidance(2.0, weaker=weaker))(z, at)
        wanted = 2 * model.denoise(Y)(z, at).x - weaker.denoise(Y)(z, at).x
    assert torch.allclose(found.x, wanted, atol=1e-5)
    assert torch.equal(model.sample(4, Y, steps=4, guidance=Guidance(1.0, weaker=weaker)), model.sample(4, Y, steps=4))


def test_an_interval_acts_row_by_row_where_each_row_has_its_time():
    model = two_class_model().eval()
    z, at = torch.randn(2, 2), model.schedule.at(torch.tensor([0.1, 0.9], dtype=torch.float64))
    noise = (at.gamma / 2).exp()
    how = Guidance(4.0, interval=(0.0, float(noise.mean())))
    with torch.no_grad():
        found, plain, pushed = (d(z, at).x for d in (model.guided(Y[:2], how), model.denoise(Y[:2]), model.guided(Y[:2], 4.0)))
    assert torch.allclose(found, torch.stack([pushed[0], plain[1]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "much", True])
def test_a_scale_must_be_finite(bad):
    with pytest.raises(InputError, match="guidance: expected a finite number"):
        two_class_model().sample(2, Y[:2], guidance=bad)


@pytest.mark.parametrize(
    "bad", [{"interval": (2.0, 1.0)}, {"interval": (-1.0, 1.0)}, {"rescale": 1.5}, {"parallel": -0.1}, {"radius": 0.0}]
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Guidance(2.0, **bad)


def test_an_unconditional_model_needs_a_classifier():
    model = likeli.VDM(Real((2,)), hidden=(8,), network="mlp")
    with pytest.raises(InputError, match="conditional run, or a classifier"):
        model.sample(2, guidance=2.0)


def test_only_other_scales_are_called_no_posterior():
    model = two_class_model().eval()
    assert model.qualification(guidance=1.0) == model.qualification(guidance=0.0) == model.qualification() == ""
    assert "not a posterior" in model.qualification(guidance=3.0)
    assert "not a posterior" in FAMILIES["absorbing"]().qualification(guidance=3.0)


def test_a_hidden_condition_is_the_null_token_and_a_hidden_cell_is_marked():
    space = Real((2,), (1.0, 2.0), (1.0, 1.0))
    c = Conditioner(space, 0.5).eval()
    like, y = torch.zeros(2, 1), torch.tensor([[1.0, math.nan], [3.0, 4.0]])
    assert torch.equal(c(y, like), torch.tensor([[0.0, 0, 0, 1], [2, 2, 0, 0]]))
    assert torch.equal(c(None, like), c(null_of(y), like))
    hidden = c.train()(y[1:].expand(4000, 2), torch.zeros(4000, 1))[:, 2].mean().item()
    assert abs(hidden - 0.5) < 5 * 0.5 / math.sqrt(4000)  # 5 standard errors: 1 false alarm in 1.7 million


def test_the_classifier_of_noised_rows_learns_where_classes_are():
    """−log p(y|x) at the clean end on well separated classes is small, and log 2 where only noise is left."""
    model = likeli.VDM(Real((2,)), network="mlp", hidden=(8,), noise="log_linear", gamma=(-6.0, 8.0))
    torch.manual_seed(1)
    y = torch.randint(2, (512,))
    x = torch.randn(512, 2) * 0.2 + torch.tensor([[-1.0, 0.0], [1.0, 0.5]])[y]
    found = fit_noisy_classifier(model, x, y, Labels(2), steps=150)
    assert found.of(x).gather(1, y[:, None]).mean().item() > -0.05
    last = found.log_pmf(torch.randn(256, 2), model.schedule.at(1.0)).exp()
    assert (last - 0.5).abs().max().item() < 0.2
    drawn = model.sample(8, steps=4, guidance=Guidance(2.0, classifier=lambda z, at, _: found(z, at, torch.tensor([1]))))
    assert drawn.isfinite().all()


def test_a_classifier_comes_back_to_the_bit_and_guides_its_own_rows_only(tmp_path):
    """Saved with a learned schedule; refused: a run of other rows or classes, a run's folder, a file that was changed."""
    model = likeli.VDM(Real((2,), scale=2.0), network="mlp", hidden=(8,))
    x, y = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2
    found = fit_noisy_classifier(model, x, y, Labels(2, ("no", "yes")), steps=5)
    save_classifier(found, tmp_path / "judge")
    again = load_classifier(tmp_path / "judge", model)
    for at in (model.schedule.at(0.0), model.schedule.at(0.7)):
        assert torch.equal(again.log_pmf(x, at), found.log_pmf(x, at))
    assert torch.equal(again.of(x), found.of(x))
    assert again.condition.names == ("no", "yes")
    with pytest.raises(InputError, match="a new or empty folder"):
        save_classifier(found, tmp_path / "judge")
    with pytest.raises(InputError, match="classifier: expected one of rows as the run has them"):
        load_classifier(tmp_path / "judge", likeli.VDM(Real((2,))))
    with pytest.raises(InputError, match="classifier: expected one of the run's classes"):
        load_classifier(tmp_path / "judge", likeli.VDM(Real((2,), scale=2.0), condition=Labels(3)))
    likeli.save(model, tmp_path / "run")
    with pytest.raises(CheckpointError, match="a saved noisy_classifier"):
        load_classifier(tmp_path / "run")
    likeli.save_pretrained(model, tmp_path / "flat")
    with pytest.raises(CheckpointError, match="noisy_classifier"):
        load_classifier(tmp_path / "flat")
    with pytest.raises(CheckpointError, match="generative_model: expected one of"):
        likeli.load(tmp_path / "judge")
    weights = tmp_path / "judge" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="sha256"):
        load_classifier(tmp_path / "judge")


def test_guidance_by_two_models_of_one_schedule_is_linear_in_the_scale():
    """x̂(γ) on the line through x̂₀ and x̂₁."""
    model = two_class_model().eval()
    z, at = torch.randn(4, 2), model.schedule.at(0.5)
    with torch.no_grad():
        parts = [against(model.denoise(Y), model.denoise(null_of(Y)), Guidance(g))(z, at).x for g in (0.5, 1.5, 2.5)]
    assert torch.allclose(parts[0] + parts[2], 2 * parts[1], atol=1e-5)

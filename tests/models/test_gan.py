"""A generator and a discriminator: the games by hand, what is refused, and which step is kept."""

import math
import os
import signal

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

import likeli
from likeli.contract import Knows
from likeli.errors import InputError, Interrupted, Unsupported
from likeli.models.gan import GAN, AdversarialObjective
from likeli.nn.mlp import MLP
from likeli.random import seeded
from likeli.spaces import Binary, Column, Labels, Pixels, Real, Table, Tokens
from likeli.training import fit
from likeli.training.adversarial import sample_distance
from likeli.training.batches import Examples
from likeli.training.run import EMA, Run
from likeli.training.session import Session
from likeli.training.settings import Budget, TrainSettings

TABLE = Table((Column("a", scale=3.0), Column("b", "integer"), Column("c", "categorical", categories=("x", "y", "z"))))


def made(space, seed=0, **options):
    with seeded(seed, "gan"):
        return GAN(space, **options)


def linear(game, **penalties):
    """A discriminator f(u) = 2u₁ − u₂ + ½, whose slope is (2, −1) everywhere."""
    model = made(Real((2,)), hidden=(), objective=AdversarialObjective(game, **penalties)).double()
    with torch.no_grad():
        model.discriminator[0].weight.copy_(torch.tensor([[2.0, -1.0]]))
        model.discriminator[0].bias.fill_(0.5)
    return model


def by_hand(game, f, g):
    """What D and G minimise, from torch's cross-entropies where there is one, else cell by cell."""
    one, zero = torch.ones_like(f), torch.zeros_like(f)
    def entropy(logits, label):
        return F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    if game in ("minimax", "non_saturating"):
        return entropy(f, one) + entropy(g, zero), -entropy(g, zero) if game == "minimax" else entropy(g, one)
    if game == "relativistic":
        return entropy(f - g, one), entropy(g - f, one)
    if game == "hinge":
        return torch.tensor([max(0, 1 - a) + max(0, 1 + b) for a, b in zip(f.tolist(), g.tolist())]).double(), -g
    return g - f, -g


@pytest.mark.parametrize("game", ["minimax", "non_saturating", "hinge", "wgan_gp", "relativistic"])
def test_games_are_their_formulas(game):
    """Without penalties, then with: r/2 · ‖(2, −1)‖² = 5r/2 each, and λ(√5 − 1)² between data and draws."""
    u, v = torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f, g = (t @ torch.tensor([2.0, -1.0], dtype=torch.float64) + 0.5 for t in (u, v))
    bare = linear(game, r1=0.0, r2=0.0, slope=0.0)
    for_d, for_g = by_hand(game, f, g)
    assert torch.allclose(bare.discriminator_loss(u, v), for_d, atol=1e-12)
    assert torch.allclose(bare.generator_loss(u, v), for_g, atol=1e-12)
    more = 5 * 0.3 / 2 + 5 * 0.7 / 2 + (7.0 * (math.sqrt(5) - 1) ** 2 if game == "wgan_gp" else 0)
    held = linear(game, r1=0.3, r2=0.7, slope=7.0)
    assert torch.allclose(held.discriminator_loss(u, v), for_d + more, atol=1e-9)
    with torch.no_grad():
        assert torch.allclose(held.discriminator_loss(u, v), for_d + more, atol=1e-9)


def test_penalties_hold_data_and_draws_apart():
    """f = u³ has the slope 3u²; R1 sees it on data and R2 on draws, and both can be differentiated again."""
    model = made(Real((1,)), objective=AdversarialObjective("non_saturating", r1=0.4, r2=0.1)).double()
    cubic = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    model.logit = lambda u, y=None: cubic * u[:, 0] ** 3
    u, v = torch.tensor([[0.5], [1.0]]).double(), torch.tensor([[2.0], [-1.0]]).double()
    loss = model.discriminator_loss(u, v)
    bare = F.softplus(-(u[:, 0] ** 3)) + F.softplus(v[:, 0] ** 3)
    assert torch.allclose(loss - bare, 0.2 * 9 * u[:, 0] ** 4 + 0.05 * 9 * v[:, 0] ** 4, atol=1e-12)
    (slope,) = torch.autograd.grad((loss - 0).sum(), cubic)
    penalty = 2 * (0.2 * 9 * u**4 + 0.05 * 9 * v**4).sum()
    game = (-(u**3) * torch.sigmoid(-(u**3)) + v**3 * torch.sigmoid(v**3)).sum()
    assert torch.allclose(slope, penalty + game, atol=1e-12)


@pytest.mark.parametrize("space", [Pixels((3,), 5), Binary((3,))], ids=lambda s: s.kind())
def test_a_generator_of_exact_levels_is_seen_as_data(space):
    """Draws at the middles of levels and rows of the same levels have one law once both have their noise."""
    model, g = made(space), torch.Generator().manual_seed(0)
    x = torch.randint(space.levels, (4000, 3), generator=g)
    model.generate = lambda z, y=None: space.to_model(x)
    with seeded(1):
        seen, data = model.fake(torch.zeros(4000, 3)), model.real(x)
    assert torch.equal(space.from_model(seen), x)  # the noise stays within the level
    assert stats.ks_2samp(seen.flatten(), data.flatten()).pvalue > 1e-3


def test_columns_of_a_table_are_seen_as_they_are_made():
    model = made(TABLE)
    with seeded(1):
        seen = model.fake(torch.zeros(50, 3))
    with seeded(1):
        assert torch.equal(seen, model.generate(torch.randn(50, model.latent_dim)))
    assert seen.requires_grad


def test_it_has_no_log_p_and_says_why():
    assert GAN.knows is Knows.NOTHING
    few, many = made(Real((5,)), latent_dim=2), made(Real((1,)), latent_dim=4)
    with pytest.raises(Unsupported, match=r"a surface of 2 dimensions among 5, which has no density.*flow or vae"):
        few.log_likelihood(torch.zeros(3, 5))
    with pytest.raises(Unsupported, match=r"an integral over all z.*flow or vae"):
        many.log_likelihood(torch.zeros(3, 1))


def test_only_a_game_with_a_ratio_gives_one():
    x = torch.randn(4, 2)
    for game in ("hinge", "wgan_gp", "relativistic"):
        with pytest.raises(Unsupported, match="minimax and non_saturating"):
            made(Real((2,)), objective=AdversarialObjective(game)).density_ratio(x)
    model = linear("non_saturating").float()
    assert torch.allclose(model.density_ratio(x), 2 * x[:, 0] - x[:, 1] + 0.5, atol=1e-6)
    pixels = made(Pixels((3,), 4), objective=AdversarialObjective("minimax"))
    assert torch.equal(*(pixels.density_ratio(torch.tensor([[0, 1, 3]])) for _ in range(2)))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"game": "nash"}, "game: expected one of minimax"),
        ({"r1": -1.0}, "r1: expected a number of at least 0"),
        ({"r2": math.inf}, "r2: expected"),
        ({"turns": 0}, "turns: expected a whole number"),
    ],
)
def test_bad_objectives(options, told):
    with pytest.raises(InputError, match=told):
        AdversarialObjective(**options)


def test_bad_models():
    for options, told in (({"latent_dim": 0}, "latent_dim"), ({"hidden": (0,)}, "hidden"), ({"network": "conv"}, "network")):
        with pytest.raises(InputError, match=told):
            GAN(Real((2,)), **options)
    with pytest.raises(Unsupported, match="no continuous form"):
        GAN(Tokens(4, 3))


# --- the number by which weights are kept -----------------------------------------------------------------------------------


def judged(train, valid, draw, y=None):
    """The distance of what `draw` gives, (rows, cells) of model units, from validation rows."""
    model = made(Real(train.shape[1:]), condition=None if y is None else Labels(2))
    model.generate = lambda z, y=None: draw(len(z), y)
    rows = [Examples(x, None if y is None else c) for x, c in zip((train, valid), y or (None, None))]
    run = Run(model, *rows, TrainSettings(), Budget(steps=1), 0, lambda: False)
    run.average = EMA({}, 0)
    return sample_distance(run)


def test_equal_sets_are_near_one_and_others_are_told():
    """The mean under permutations is 1 for equal laws: over 20 sets the mean is within 4 s.e., each of them seen here."""
    g = torch.Generator().manual_seed(0)
    def normal(n, *_):
        return torch.randn(n, 2, generator=g)
    equal = torch.tensor([judged(normal(300), normal(300), normal) for _ in range(20)])
    assert abs(equal.mean() - 1) < 4 * equal.std() / 20**0.5
    assert equal.std() < 0.5
    shifts = [judged(normal(300), normal(300), lambda n, *_, s=s: normal(n) + s) for s in (0.3, 0.6, 1.2)]
    assert 2 < shifts[0] < shifts[1] < shifts[2]


def test_a_mode_that_is_lost_is_told():
    """One of eight modes is 1/8 of the mass, against a floor of 1."""
    truth = likeli.load_data("ring8").truth
    g = torch.Generator().manual_seed(0)
    rows = [truth.sample(500, seed).float() for seed in (1, 2)]

    def draw(n, y=None, modes=8):
        k = torch.randint(modes, (n,), generator=g)
        return (truth.means[k] + 0.2 * torch.randn(n, 2, generator=g)).float()

    assert judged(*rows, draw) < 1.6
    assert judged(*rows, lambda n, y: draw(n, modes=7)) > 2.5


def test_a_condition_that_is_ignored_is_told():
    """x ~ N(±2, 1) with its sign's label: the marginal is right when y is ignored, and the joint law is not."""
    g = torch.Generator().manual_seed(0)
    y = [torch.randint(2, (400,), generator=g) for _ in range(2)]
    def draw(c):
        return (4.0 * c - 2)[:, None] + torch.randn(len(c), 1, generator=g)
    rows = [draw(c) for c in y]
    assert judged(*rows, lambda n, c: draw(c), y) < 1.6
    assert judged(*rows, lambda n, c: draw(c[torch.randperm(n, generator=g)]), y) > 2.5


# --- training -----------------------------------------------------------------------------------------------------------------


def small(**options):
    return made(Real((2,)), hidden=(16,), latent_dim=2, **options)


def test_the_history_says_by_what_the_weights_were_chosen():
    data = likeli.load_data("ring8")
    model = small()
    history = fit(model, data, steps=30, validate_every=10, progress=False)
    looks = {row["step"]: row["valid"] for row in history.rows if "valid" in row}
    assert list(looks) == [10, 20, 30]
    assert history.best == {"step": min(looks, key=looks.get), "valid": min(looks.values())}
    assert "best distance of samples from validation rows" in str(history)
    assert any(f"step {history.best['step']} (epoch" in note for note in history.notes)
    blind = fit(small(), data.x[:200], steps=5, progress=False)
    assert any("the last step was kept" in note for note in blind.notes)


def test_each_side_has_its_turns_and_leaves_the_other_alone():
    """With 3 turns of the discriminator, the generator moves after every third step only."""
    data = likeli.load_data("ring8")
    model = small(objective=AdversarialObjective("wgan_gp", turns=3))
    history = fit(model, data.x[:200], steps=9, log_every=1, ema=0, progress=False)
    assert [row["step"] for row in history.rows if "generator_loss" in row] == [3, 6, 9]
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "options", [{"objective": AdversarialObjective("wgan_gp", turns=2)}, {"condition": Labels(3)}], ids=["turns", "labels"]
)
def test_stopped_and_resumed_it_equals_the_straight_run_to_the_bit(monkeypatch, tmp_path, options):
    data = likeli.load_data("ring8").x[:120]
    y = torch.arange(120) % 3 if "condition" in options else None
    how = {"steps": 8, "batch": 32, "log_every": 1, "progress": False}

    def run(**more):
        model = small(**options)
        history = fit(model, data, y, **how, **more)
        return model, [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]

    straight, expected = run()
    real = Session.take

    def take(self, row):
        real(self, row)
        if self.run.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "take", take)
        with pytest.raises(Interrupted):
            run(out=tmp_path / "run")
    resumed, found = run(out=tmp_path / "run", resume=True)
    assert found == expected
    assert all(torch.equal(resumed.state_dict()[k], v) for k, v in straight.state_dict().items())


def test_a_discriminator_that_overflows_is_named():
    model = small()
    with torch.no_grad():
        model.discriminator[-1].weight.fill_(1e30)
        model.discriminator[0].weight.fill_(1e20)
    with pytest.raises(likeli.errors.Diverged, match=r"step 1: (loss|gradient) of the discriminator is .*--train.lr"):
        fit(model, torch.randn(64, 2), steps=2, progress=False)


def test_networks_follow_the_space():
    assert isinstance(made(Real((2,))).generator, MLP)
    assert isinstance(made(Pixels((8, 8), 4)).generator, MLP)
    image = made(Pixels((2, 16, 16), 4), hidden=(8,))
    assert not isinstance(image.generator, MLP)
    assert image.sample(3).shape == (3, 2, 16, 16)


@pytest.mark.parametrize("condition", [None, Labels(3)], ids=["alone", "given y"])
def test_a_code_is_found_from_its_draw(condition):
    """Draws are given back to 1 % of their spread, nine of ten at least, since a search may end beside; each row by itself."""
    model, y = made(Real((6,)), latent_dim=2, condition=condition), None if condition is None else torch.arange(40) % 3
    z = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    x = model.decode(z, y).detach()
    codes = model.encode(x, y)
    missed = (model.decode(codes, y) - x).norm(dim=1) / (x - x.mean(0)).norm(dim=1).mean()
    assert (missed < 0.01).float().mean() >= 0.9
    few = model.encode(x[:7], None if y is None else y[:7])
    assert torch.allclose(few, codes[:7], atol=1e-3)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_one_normal_is_learned():
    """Mean and standard deviation within 5 % (20,000 samples: s.e. 0.7 %), and a classifier hardly tells the sets apart."""
    data = likeli.load_data(likeli.load_data("gaussian").x[:, :1] * 2 + 3)
    model = made(data.space)
    fit(model, data, steps=2000, progress=False)
    x, truth = model.sample(20_000).double(), data.x.double()
    assert abs(x.mean() / truth.mean() - 1) < 0.05
    assert abs(x.std() / truth.std() - 1) < 0.05
    area, error = likeli.c2st(model.sample(1000).double(), data.split("test")[0].double())
    assert area < 0.5 + 4 * error + 0.05

"""Gaussian diffusion of a table's symbols: against enumeration, against tokens, and a source of known entropy."""

import itertools
import math

import pytest
import torch
from torch import nn

import likeli
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.networks import DenoiserBackbone
from likeli.errors import Unsupported
from likeli.models import DDPM, EDM, VDM, FlowMatching, ScoreSDE
from likeli.random import seeded
from likeli.spaces import Column, Marginal, Table, Tokens

F64 = torch.float64
NAMES = ("a", "b", "c")
PAIR = Table((Column("k", "categorical", categories=NAMES), Column("l", "categorical", categories=("u", "v"))))
JOINT = torch.tensor([[0.3, 0.1], [0.05, 0.25], [0.1, 0.2]], dtype=F64)  # of PAIR's two columns
ROWS = torch.tensor(list(itertools.product(range(3), range(2))), dtype=F64)
SMALL = DenoiserBackbone(hidden=(32, 32))


class Fixed(nn.Module):
    """The same output for every z."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, z, gamma, y=None):
        return self.out.expand(len(z), *self.out.shape)


def randomised(model):
    """With weights far from those that it starts with."""
    with seeded(3, "weights"), torch.no_grad():
        for p in model.denoiser.net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def mixed(whole=False):
    """A table of a category, a real column with an atom at 0, an integer and a boolean."""
    real = Marginal((0.0, 0.0, 0.5), (0.0, 0.5, 2.0), (0.6, 0.3, 0.1), 0.01)
    count = Marginal((0.0, 1.0), (0.0, 3.0), (0.6, 0.4), 0.01)
    number = Column("r", "integer", marginal=count) if whole else Column("r", marginal=real)
    columns = (
        Column("k", "categorical", categories=NAMES),
        number,
        Column("n", "integer", marginal=Marginal((0.0, 1.0, 4.0), (0.0, 3.0, 4.0), (0.5, 0.3, 0.2), 0.0, ("bound", "bound"))),
        Column("b", "boolean", categories=("False", "True")),
    )
    return Table(columns)


def exact(space, joint, **options):
    """A VDM with the optimal denoiser of a table of two columns of names."""
    model = VDM(space, noise="log_linear", **options).double()
    vectors = model.infer(ROWS)
    model.denoiser = MixtureDenoiser(model.schedule, joint.flatten(), vectors, torch.full_like(vectors, 1e-9))
    return model


def test_names_of_equal_mass_are_diffused_as_tokens_are():
    """One draw of the bound with the same noise and the same logits, to rounding."""
    names = [Column(c, "categorical", categories=NAMES) for c in "kl"]
    table, tokens = VDM(Table(tuple(names)), noise="log_linear").double(), VDM(Tokens(2, 3), noise="log_linear").double()
    logits = torch.randn(2, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    table.denoiser.net, tokens.denoiser.net = Fixed(logits.flatten()), Fixed(logits)
    x, t = torch.tensor(list(itertools.product(range(3), repeat=2))), torch.linspace(0, 0.99, 9, dtype=F64)
    assert torch.equal(table.infer(x.double()), tokens.infer(x).flatten(1))
    with seeded(1, "noise"):
        one = table.bound(x.double(), t)
    with seeded(1, "noise"):
        other = tokens.bound(x, t)
    assert torch.allclose(one.value, other.value, rtol=1e-6, atol=1e-9), one.value - other.value


@pytest.mark.parametrize("family", [VDM, DDPM, EDM, FlowMatching, ScoreSDE])
def test_masses_of_all_rows_add_up_to_at_most_one(family):
    """Σ_x e^{E L(x)} ≤ Σ_x p(x) = 1, also over the first column alone, for weights that nothing has trained."""
    model = randomised(family(PAIR, backbone=SMALL))
    for rows in (ROWS, torch.stack([torch.arange(3.0), torch.full((3,), torch.nan)], 1).double()):
        found = model.log_likelihood(rows, samples=32)
        noise = (found.value.exp() * found.stderr).square().sum().sqrt().item()
        assert found.value.exp().sum().item() < 1 + 4 * noise, family


def test_the_bound_of_the_exact_denoiser_is_log_p():
    """4 standard errors; half the distance of two symbols is 4 σ at the clean end, and 6 e^{−γ₁} is left of x at the other."""
    model = exact(PAIR, JOINT)
    found = model.log_likelihood(ROWS, samples=100)
    confused = 3 * math.erfc(4 / math.sqrt(2))  # of some symbol for another, times the nats that it costs: below 1
    slack = 4 * found.stderr + confused + 6 * math.exp(-model.schedule.at(1.0).gamma.item())
    assert bool(((found.value - JOINT.flatten().log()).abs() < slack).all()), (found.value, JOINT.flatten().log())
    flow = model.log_likelihood(ROWS[:2], method="ode", samples=4)
    assert bool(((flow.value - JOINT.flatten()[:2].log()).abs() < 4 * flow.stderr + 0.02).all())


@pytest.mark.parametrize("family", [VDM, DDPM, EDM, FlowMatching, ScoreSDE])
def test_a_new_network_has_every_column_as_it_is_by_itself_whichever_cells_are_missing(family):
    """Columns that are independent are known exactly: log p = Σ_observed (log mass + log p(x | its cell)), and never more."""
    space = mixed()
    nan = float("nan")
    rows = [[0, 0, 0, 1], [2, 0.2, 3, 0], [1, 1.7, 4, nan], [nan, 0, nan, 1], [nan, nan, 2, nan], [0, -3.0, 1, 1]]
    x, model = torch.tensor(rows, dtype=F64), family(space)
    found, codes = model.log_likelihood(x, samples=200), space.marginals.symbols(x)
    truth = (space.marginals.mass.T.gather(0, codes.clamp(min=0)).log() + space.marginals.log_within(x)) * (codes >= 0)
    gap = truth.sum(1) - found.value
    assert bool((gap < 4 * found.stderr + 0.02).all()) and bool((gap > -4 * found.stderr - 1e-3).all()), gap
    assert found.measure == "mixed" and mixed(whole=True).measure == "mass"


def test_rows_do_not_depend_on_the_gaps_of_their_neighbours():
    model, x = randomised(VDM(PAIR, backbone=SMALL)), ROWS.clone()
    alone = model.log_likelihood(x[:2], samples=4).value
    x[2:, 1] = torch.nan
    assert torch.equal(model.log_likelihood(x, samples=4).value[:2], alone)


@pytest.mark.slow
def test_a_category_and_a_normal_reach_their_entropy():
    """c ~ (0.3, 0.7), r | c ~ N(±2, 0.5²): log p = log π_c + log N(r).

    What is lost: the cells of r, whose density is even inside (the true masses of c and the cell say how much), and training,
    a twentieth of what the columns know of each other, 0.61 nats.
    """
    with seeded(0, "source"):
        c = (torch.rand(1800) < 0.7).double()
        x = torch.stack([c, 4 * c - 2 + 0.5 * torch.randn(1800, dtype=F64)], 1)
    column = Column("c", "categorical", categories=("u", "v"), marginal=Marginal.of_codes(c[:1500].numpy(), 2))
    space = Table((column, Column("r", marginal=Marginal.found(x[:1500, 1].numpy(), False, 2))))
    model, test = VDM(space, DenoiserBackbone(hidden=(64, 64))), x[1500:]
    optimiser = torch.optim.Adam(model.parameters())
    with seeded(1, "training"):
        for step in range(1200):
            optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 1200)
            optimiser.zero_grad()
            model.loss(x[torch.randint(1500, (128,))]).mean().backward()
            optimiser.step()
    coding, cells = space.marginals, space.marginals.symbols(test)[:, 1]
    low = torch.where(cells == 0, -torch.inf, coding.low[1][cells])
    high = torch.where(cells == coding.sizes[1] - 1, torch.inf, coding.high[1][cells])
    normal = torch.distributions.Normal(4 * test[:, 0] - 2, 0.5)
    prior = torch.where(test[:, 0] > 0, 0.7, 0.3).log()
    best = prior + (normal.cdf(high) - normal.cdf(low)).log() + coding.log_within(test)[:, 1]
    found = model.log_likelihood(test, samples=48)
    error, lost = found.stderr.square().sum().sqrt().item() / len(test), (best - found.value).mean().item()
    assert -4 * error < lost < 0.05 * 0.61 + 4 * error, (lost, error)
    assert (prior + normal.log_prob(test[:, 1]) - best).mean().item() < 0.1  # of 20 cells: h²/24σ² each, and the tails
    drawn = model.sample(256)
    assert abs((drawn[:, 0] > 0).double().mean().item() - 0.7) < 4 * math.sqrt(0.21 / 256) + 0.02
    assert ((drawn[:, 1] > 0) == (drawn[:, 0] > 0)).double().mean().item() > 0.95  # of the truth all but 6e-5


def test_model_units_come_back_and_samples_stay_among_the_values():
    space = mixed()
    model, x = randomised(VDM(space, backbone=SMALL)), torch.tensor([[0, 0, 4, 1], [2, 0.25, 2, 0]], dtype=F64)
    u = model.infer(x)
    assert u.shape == (2, 3 + 3 + 3 + 2) and bool((u.sum(1) == 4).all())
    assert model.latent_space.from_model(u).tolist() == x.tolist()
    drawn = model.sample(200, steps=8)
    assert bool(((drawn >= torch.tensor([0, 0, 0, 0])) & (drawn <= torch.tensor([2, 2, 4, 1]))).all())
    assert torch.equal(drawn[:, [0, 2, 3]], drawn[:, [0, 2, 3]].round()) and space.check(drawn) is not None
    spikes = (VDM(space, backbone=SMALL).sample(200, steps=8)[:, 1] == 0).double().mean().item()
    assert abs(spikes - 0.6) < 4 * math.sqrt(0.24 / 200)


def test_missing_cells_are_drawn_given_the_others():
    """p(l | k) of the exact denoiser by twisted SMC, 4 binomial standard errors and its particles' bias."""
    model, x = exact(PAIR, JOINT), torch.tensor([[0, torch.nan], [1, torch.nan], [torch.nan, 1]], dtype=F64)
    found = likeli.impute(model, x, n=200, method="twisted_smc")
    assert bool((found.draws[:, 0, 0] == 0).all())
    for row, share in ((0, 0.25), (1, 5 / 6)):
        got = found.draws[:, row, 1].mean().item()
        assert abs(got - share) < 4 * math.sqrt(share * (1 - share) / 200) + 0.03, (row, got)


def test_imputed_numbers_are_spread_over_their_cells():
    model, x = VDM(mixed()), torch.tensor([[0, torch.nan, 1, 1]], dtype=F64)
    draws = likeli.impute(model, x, n=40).draws[:, 0, 1]
    assert len(draws.unique()) > 10 and bool((draws == 0).any())


def test_the_chain_refuses_missing_cells_in_one_line():
    model, x = VDM(PAIR), torch.tensor([[0, torch.nan]], dtype=F64)
    for call in (model.encode, lambda x: model.log_likelihood(x, method="ode")):
        with pytest.raises(Unsupported, match="missing cells have no chain"):
            call(x)

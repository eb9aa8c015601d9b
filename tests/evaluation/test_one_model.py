"""The numbers that one model has of log p(x), against each other and enumeration, and their table on the command line."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch

import likeli
from likeli.cli import main
from likeli.contract import Knows
from likeli.discrete.backbone import SymbolBackbone
from likeli.errors import InputError, Unsupported
from likeli.evaluation.one_model import every_number, log_conditional, strided
from likeli.models.autoregressive import Autoregressive, CausalBackbone
from likeli.models.discrete_diffusion import DiscreteDiffusion
from likeli.random import seeded
from likeli.spaces import Binary, Tokens

TEXT = Tokens(4, 3, "abc")


def shaken(model):
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    return model.double().eval()


@pytest.fixture(scope="module")
def models():
    with seeded(0):
        small = CausalBackbone("transformer", (16, 16))
        masked = DiscreteDiffusion(TEXT, backbone=SymbolBackbone(hidden=(16, 16)))
        return {
            "natural": shaken(Autoregressive(TEXT, small, "natural")),
            "any": shaken(Autoregressive(TEXT, small, "any")),
            "masked": shaken(masked),
        }


def given_the_first(model, windows, known, **options):
    """log p(the rest | the first cells) = log p(row) − log Σ over all rests."""
    rests = torch.tensor(list(itertools.product(range(3), repeat=4 - known)))
    found = []
    for row in windows:
        every = torch.cat([row[:known].expand(len(rests), -1), rests], 1)
        log_p = model.log_likelihood(every, **options).value
        at = (every == row).all(1)
        found.append((log_p[at][0] - log_p.logsumexp(0)).item())
    return found


@pytest.mark.parametrize("name, options", [("natural", {}), ("any", {}), ("masked", {"method": "chain_rule"})])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_overlapping_windows_are_conditionals_of_a_law_of_the_whole_text(models, name, options, stride):
    x = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0], [1, 1, 0, 2]])
    found = strided(models[name], x, stride, **options)
    windows = x.flatten().unfold(0, 4, stride)
    truth = [models[name].log_likelihood(x[:1], **options).value.item()]
    if stride < 4:
        truth += given_the_first(models[name], windows[1:], 4 - stride, **options)
    else:
        truth += models[name].log_likelihood(x[1:], **options).value.tolist()
    assert found.knows is Knows.EXACT
    assert found.rates["bits_per_symbol"][0] == pytest.approx(-sum(truth) / (12 * math.log(2)), abs=1e-9)
    assert found.bits_per_dim == found.rates["bits_per_byte"][0] == found.rates["bits_per_symbol"][0]
    assert found.nats == pytest.approx(sum(truth) / 3, abs=1e-9)
    if stride == 4:
        plain = likeli.evaluate(models[name], x, progress=False, **options)
        assert found.nats == pytest.approx(plain.nats, abs=1e-9)


def test_families_that_hold_nothing_fixed_are_refused():
    model = likeli.Independent(TEXT)
    x = torch.tensor([[0, 1, 2, 0]])
    for ask in (lambda: strided(model, x, 2), lambda: log_conditional(model, x, x)):
        with pytest.raises(Unsupported, match="independent does not know log p of the rest"):
            ask()


def test_any_given_cells_are_a_conditional_along_an_order_that_begins_with_them(models):
    """Of order any: log p(x_2, x_3 | x_1, x_4), normalised over what is free."""
    rows = torch.tensor([[1, a, b, 2] for a in range(3) for b in range(3)])
    log_p = models["any"].log_likelihood(rows, fixed=(3, 0)).value
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    assert torch.equal(log_conditional(models["any"], rows, torch.tensor([[1, -1, -1, 2]])).value, log_p)
    with pytest.raises(InputError, match="given: expected what x has, or free cells, got another value at row 0, column 3"):
        log_conditional(models["any"], rows, torch.tensor([[1, -1, -1, 0]]))
    with pytest.raises(Unsupported, match="fixed: only the first cells"):
        models["natural"].log_likelihood(rows, fixed=(3,))
    with pytest.raises(InputError, match="fixed: expected cells from 0 to 3"):
        models["natural"].log_likelihood(rows, fixed=(4,))


def test_a_bound_of_other_levels_is_that_of_a_model_with_these_levels(models):
    other = DiscreteDiffusion(TEXT, steps=3, backbone=SymbolBackbone(hidden=(16, 16))).double()
    other.load_state_dict(models["masked"].state_dict())
    x = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    a, b = models["masked"].log_likelihood(x, steps=3), other.log_likelihood(x)
    assert torch.equal(a.value, b.value)
    settled = DiscreteDiffusion(TEXT, schedule="learned", steps=3)
    with pytest.raises(InputError, match="steps: expected nothing, or 3"):
        settled.log_likelihood(x, steps=4)


def test_each_number_has_its_kind_and_bounds_meet_the_mean_over_orders(models):
    """T = ∞ is the mean of log p over all orders, of which there are 24; five standard errors."""
    x = torch.tensor(list(itertools.product(range(3), repeat=4)))
    found = every_number(models["masked"], x, seed=1, steps=5, progress=False, samples=64)
    assert [*found] == ["bound, T = ∞", "bound, T = 5"] + [
        f"chain rule, {order}" for order in ("left to right", "in a drawn order", "by confidence")
    ]
    kinds = [one.knows for one in found.values()]
    assert kinds == [Knows.LOWER_BOUND] * 2 + [Knows.EXACT] * 3
    for one in [*found.values()][2:]:
        assert one.by_row.value.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
        assert one.by_row.stderr is None
    orders = itertools.permutations(range(4))
    along = [models["masked"].log_likelihood(x, method="chain_rule", order=o).value for o in orders]
    endless = found["bound, T = ∞"].by_row
    error = endless.stderr.square().sum().sqrt() / len(x)
    assert (endless.value.mean() - torch.stack(along).mean()).abs() < 5 * error
    with pytest.raises(Unsupported, match="independent does not have several"):
        every_number(likeli.Independent(Binary((3,))), torch.zeros(2, 3))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "book.txt").write_text("".join(random.Random(0).choices("abc \n", k=1200)))
    fit = ["--context", "8", "--steps", "2", "--quiet"]
    for name in ("autoregressive", "discrete_diffusion"):
        hidden = ["--model.backbone.hidden", "(16,)"]
        assert main(["fit", str(folder / "book.txt"), "--model", name, *fit, *hidden, "--out", str(folder / name)]) == 0
    np.save(folder / "rows.npy", np.random.default_rng(0).integers(3, size=(200, 4)))
    plain = [
        "fit",
        str(folder / "rows.npy"),
        "--kind",
        "tokens",
        "--model",
        "independent",
        "--quiet",
        "--out",
        str(folder / "plain"),
    ]
    assert main(plain) == 0
    return folder


def test_the_table_on_the_command_line(runs, capsys):
    assert (
        main(["evaluate", str(runs / "discrete_diffusion"), "--method", "all", "--stride", "2", "--rows", "6", "--quiet"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "number"
    chains = [f"chain rule, {order}" for order in ("left to right", "in a drawn order", "by confidence")]
    kinds = dict.fromkeys(["bound, T = ∞", "bound, T = 16"], "lower bound") | dict.fromkeys(chains, "exact")
    kinds["strided by 2"] = "lower bound"
    for line, (name, kind) in zip(lines[2:], kinds.items()):
        assert line.startswith(name)
        assert line[len(name) :].strip().startswith(kind)
        assert "±" in line
    assert main(["evaluate", str(runs / "autoregressive"), "--stride", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["numbers"]
    assert [*found] == ["windows that do not overlap", "strided by 4"]
    assert {row["knows"] for row in found.values()} == {"exact"}


@pytest.mark.parametrize(
    "words, message",
    [
        (["autoregressive", "--stride", "3"], "stride: expected a divisor of the context, 8, got 3"),
        (["autoregressive", "--stride", "0"], "stride: expected a divisor of the context, 8, got 0"),
        (["autoregressive", "--stride", "4", "--minutes", "1"], "method, stride: expected one number with --minutes or --out"),
        (["autoregressive", "--method", "all"], "autoregressive does not have several numbers"),
        (["plain", "--stride", "2"], "stride: expected a run on windows of a text"),
    ],
)
def test_requests_that_make_no_sense_are_one_line(runs, words, message, capsys):
    assert main(["evaluate", str(runs / words[0]), *words[1:]]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error

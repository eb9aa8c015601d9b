"""The parts of a number sum to it and are what they are called; ranks are shared where the rows cannot tell models apart."""

import math

import pytest
import torch
from torch import distributions as D

import likeli
from likeli.cli.contest import Job, caveats, ranks
from likeli.evaluation.ledger import ledger
from likeli.evaluation.likelihood import read_values, shared_ranks
from linear_gaussian import LinearGaussianChain


def parts_of(found):
    """Name → nats, when they sum to the last line."""
    assert sum(item.nats for item in found.items) == pytest.approx(found.total.nats, abs=1e-4)
    return {item.name: item.nats for item in found.items}


def test_the_parts_of_a_linear_hierarchy_are_those_of_the_closed_form():
    """E_q log p(x|z) = log N(x; Wm + b, σ²I) − tr(WSWᵀ)/2σ²; with the exact posterior the parts sum to log p(x)."""
    model = LinearGaussianChain(likeli.Real((4,)), full=True)
    x = model.marginal().sample((200,))
    found = ledger(model, x, draws=64)
    q, prior = model.true_posterior(x), D.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    kl = D.kl_divergence(q, prior).mean().item()
    spread = (model.w @ q.covariance_matrix[0] @ model.w.T).trace() / (2 * model.noise**2)
    fit = D.Normal(q.mean @ model.w.T + model.b, model.noise).log_prob(x).sum(1).mean() - spread
    parts = parts_of(found)
    error = 4 * math.sqrt(2 * 4 / (200 * 64))  # a draw of ½‖·‖²/σ² over 4 cells varies by less than χ²₄ does, 8
    assert parts["− KL(q(z|x) ‖ p(z))"] == pytest.approx(-kl, abs=1e-8)
    assert parts["reconstruction E log p(x|z)"] == pytest.approx(fit.item(), abs=error)
    assert found.total.nats == pytest.approx(model.marginal().log_prob(x).mean().item(), abs=error)
    assert found.rows == 200


def test_units_are_a_part_of_their_own():
    data = likeli.load_data("gaussian")
    found = []
    for unit in (1.0, 1000.0):
        table = likeli.load_data(data.x.numpy() * unit)
        model = likeli.PPCA(table.space, 1)
        likeli.fit(model, table)
        x = table.split("test")[0][:100]
        found.append(parts_of(ledger(model, x)))
        assert sum(found[-1].values()) == pytest.approx(model.log_likelihood(x).value.mean().item(), rel=1e-6)
    density, units = zip(*(f.values() for f in found))
    assert density[0] == pytest.approx(density[1], rel=1e-4)
    assert units[0] - units[1] == pytest.approx(data.space.dimensions * math.log(1000), rel=1e-6)


def test_a_diffusions_parts_are_its_noise_levels_end_to_end():
    data = likeli.load_data("digits")
    model = likeli.VDM(data.space, likeli.DenoiserBackbone(hidden=(4,)))
    found = ledger(model, data.split("test")[0][:8], draws=1)
    names = list(parts_of(found))
    ends = [name.removeprefix("− levels of log SNR ").split(" to ") for name in names[1:-1]]
    assert [b for _, b in ends[:-1]] == [a for a, _ in ends[1:]]
    assert (names[0], names[-1]) == ("reconstruction E log p(x|z₀)", "− mismatch of the end with the prior")
    levels = likeli.diffusion.levels.noise_levels(model, data.split("test")[0][:8], levels=6, draws=1)
    assert (found.total.nats, found.total.stderr) == (levels.bound, levels.stderr)


def test_levels_have_their_own_lines_and_a_family_without_parts_has_none():
    data = likeli.load_data("digits")
    x, _ = data.split("test")
    deep = ledger(likeli.HVAE(data.space, (3, 2)), x[:8], draws=2)
    assert [item.name for item in deep.items][1:] == ["− KL(q ‖ p) of level 1", "− KL(q ‖ p) of level 2"]
    parts_of(deep)
    assert ledger(likeli.AE(data.space), x) is None
    assert len(ledger(likeli.VAE(data.space), torch.cat([x, x]), draws=1).items) == 2


def number(*values, stderr=None, measure="density"):
    error = None if stderr is None else torch.full((len(values),), stderr)
    return likeli.LogLikelihood(torch.tensor(values, dtype=torch.float64), likeli.Knows.EXACT, measure, error)


def test_a_rank_is_shared_within_two_standard_errors_of_the_paired_difference():
    """Differences 0.1 ± 0.1 share, 0.1 ± 0.01 do not, though the spread of the rows is a thousand times as large."""
    rows, wobble = torch.linspace(-100, 100, 100), torch.tensor([1.0, -1.0]).repeat(50)
    best, near, clear = (rows - d + w * wobble for d, w in ((0.0, 0.0), (0.1, 0.99), (0.1, 0.1)))
    assert shared_ranks({"near": number(*near.tolist()), "best": number(*best.tolist())}) == {"best": 1, "near": 1}
    assert shared_ranks({"clear": number(*clear.tolist()), "best": number(*best.tolist())}) == {"best": 1, "clear": 2}
    three = {"far": number(*(rows - 5).tolist()), "near": number(*near.tolist()), "best": number(*best.tolist())}
    assert shared_ranks(three) == {"best": 1, "near": 1, "far": 3}
    assert shared_ranks({"a": number(1.0, 2.0), "b": number(1.0, 2.0, measure="mass")}) == {"a": 1, "b": 2}
    assert shared_ranks({}) == {}


def test_a_contest_ranks_by_the_files_that_its_evaluations_wrote(tmp_path):
    text = "row,nats,stderr,knows,measure\n{}\n"
    lines = {"a": (-1.0, -2.0, -3.0), "b": (-1.0, -2.1, -2.95), "c": (-9.0, -9.0, -9.5)}
    jobs = [Job(name, (), str(tmp_path / name)) for name in lines]
    rows = [{"model": n, "nats": sum(v) / 3, "knows": "exact", "measure": "mass"} for n, v in lines.items()]
    assert ranks(jobs, rows) == {"a": 1, "b": 2, "c": 3}  # nothing is known of their rows
    for name, values in lines.items():
        content = "\n".join(f"{i},{v!r},{0.25 if name == 'a' else ''},exact,mass" for i, v in enumerate(values))
        (tmp_path / f"{name}.csv").write_text(text.format(content))
    assert ranks(jobs, rows) == {"a": 1, "b": 1, "c": 3}
    assert any("one rank" in note for note in caveats(rows, ranks(jobs, rows)))
    assert not any("one rank" in note for note in caveats(rows, {"a": 1, "b": 2, "c": 3}))
    read = read_values(tmp_path / "a.csv")
    assert (read.value.tolist(), read.stderr.tolist(), read.knows) == (list(lines["a"]), [0.25] * 3, likeli.Knows.EXACT)
    assert read_values(tmp_path / "b.csv").stderr is None
    assert ranks(jobs, [rows[0] | {"nats": None}, *rows[1:]]) == {"b": 1, "c": 2}

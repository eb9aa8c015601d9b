"""What synthetic rows are worth: figures that are at their best for real rows and move for faults that were made."""

import functools

import numpy as np
import pytest
import torch
from scipy import stats

import likeli
from likeli.errors import InputError
from likeli.evaluation.synthesis import associations, cramer_v, grouped, judge_rows
from likeli.spaces import Column, Table
from likeli.spaces.marginal import Marginal

N = 160


def rows(n, seed):
    """A number, a name that depends on it, and another number that depends on both."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    b = (a + 0.5 * rng.normal(size=n) > 0).astype(float)
    return torch.tensor(np.stack([a, b, a * (2 * b - 1) + 0.1 * rng.normal(size=n)], 1))


@pytest.fixture(scope="module")
def model():
    x = rows(4 * N, 0)
    space = Table((
        Column("a", "real", marginal=Marginal.found(x[:, 0].numpy(), False)),
        Column("b", "categorical", categories=("n", "y"), marginal=Marginal.of_codes(x[:, 1].numpy(), 2)),
        Column("c", "real", marginal=Marginal.found(x[:, 2].numpy(), False)),
    ))  # fmt: skip
    alone = likeli.Independent(space)
    alone.fit_closed_form(x)
    return alone


@functools.cache
def figures(model, drawn, **options):
    drawn = rows(N, drawn) if isinstance(drawn, int) else drawn
    return {(w.part, w.name.partition(",")[0]): w for w in judge_rows(model, rows(N, 1), rows(N, 2), drawn, **options)}


def test_fresh_real_rows_score_as_training_rows_do(model):
    found = figures(model, 3)
    for (part, name), w in found.items():
        if part in ("told apart", "use", "columns", "pairs") and w.oracle == w.oracle:
            assert abs(w.value - w.oracle) < 5 * np.hypot(w.stderr, w.oracle_stderr) + 0.02, (part, name, w)
    near = found["remembered", "share nearer to a training row than 99 % of held-out rows are (0.01 if none is remembered)"]
    assert near.value < 0.01 + 5 * near.stderr


def test_independent_columns_lose_the_pairs_and_not_the_columns(model):
    found = figures(model, model.sample(N, seed=1))
    names = {name: w for (part, name), w in found.items() if part == "pairs"}
    assert all(w.value > w.oracle + 3 * w.oracle_stderr for w in names.values())
    area = found["told apart", "area of boosted trees"]
    assert area.value > 0.8
    assert 0.4 < area.oracle < 0.6
    used = found["use", "share foretold right of b"]
    assert used.value < used.oracle - 3 * used.stderr


def test_copies_of_training_rows_are_remembered(model):
    found = figures(model, 1, target=2)
    told = found["remembered", "membership told by the nearest synthetic row"]
    assert told.value > 0.9 > 0.6
    equal = [w for (part, name), w in found.items() if name.startswith("share equal")]
    assert equal[0].value == 1


def test_log_p_of_held_out_rows_is_the_models_own(model):
    found = figures(model, 3)
    own = next(w for (part, _), w in found.items() if part == "log p")
    truth = model.log_likelihood(rows(N, 2)).mean()
    assert own.value == pytest.approx(truth[0], rel=1e-9)
    assert own.stderr == pytest.approx(truth[1], rel=1e-9)


def test_association_is_scipys(model):
    x = rows(500, 5)
    groups = grouped(model.space.coding, x)[0]
    a, b = groups[:, 0], groups[:, 1]
    table = np.histogram2d(a, b, [np.arange(a.max() + 2), np.arange(b.max() + 2)])[0]
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    theirs = stats.contingency.association(table.astype(int), "cramer", correction=False)
    assert cramer_v(a, b) == pytest.approx(theirs, rel=1e-12)
    assert cramer_v(a, a) == pytest.approx(1)
    assert cramer_v(a, np.zeros_like(a)) == 0
    assert associations(model.space.coding, x, model.sample(500, seed=2), model.space.names)[0][1] > 0.5


def test_a_column_of_numbers_is_foretold_with_its_error(model):
    found = figures(model, 1, target=2)
    used = found["use", "mean absolute error in standard deviations of c"]
    assert 0 < used.value < 0.8 * np.sqrt(2 / np.pi)


def test_too_few_rows_are_refused(model):
    with pytest.raises(InputError, match="held: expected at least 40 rows"):
        judge_rows(model, rows(N, 1), rows(39, 2), rows(N, 3))

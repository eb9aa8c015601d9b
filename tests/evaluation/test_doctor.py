"""A fault is planted for every check, and the check alone must name it; sound small runs are silent."""

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import likeli
from likeli import checkpoint
from likeli.cli import main
from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.diffusion.schedule import LogLinear
from likeli.evaluation import data_checks, number_checks, training_checks
from likeli.evaluation.doctor import doctor
from likeli.evaluation.examination import CHECKS, Case
from likeli.nn.conv import NormConv
from likeli.nn.mlp import ByteDropout
from likeli.probability.draw import diagonal_gaussian
from likeli.random import seeded
from likeli.spaces import Binary, Labels, Real, Tokens
from likeli.training.run import EMA
from linear_gaussian import chain, data

PLANE = Real((2,))


def normal(n, *shape, seed=0):
    with seeded(seed):
        return torch.randn(n, *(shape or (2,)))


def rows(n=500, **parts):
    """Independent normal rows with a split, some of them replaced."""
    return dataclasses.replace(likeli.load_data(normal(n).numpy()), **parts)


class Bell(GenerativeModel):
    """N(0, I) on two reals, its sampler and log p in full view."""

    knows = Knows.EXACT
    strategy = "closed_form"
    kinds = ("real",)

    def loss(self, x, y=None):
        return -self.log_p(x)

    def log_p(self, x):
        return -0.5 * x.double().square().flatten(1).sum(1) - math.log(2 * math.pi)

    def measure_likelihood(self, x, y=None):
        return LogLikelihood(self.log_p(x), Knows.EXACT, self.space.measure, dimensions=self.space.dimensions)

    def draw(self, noise, y=None):
        return noise.normal(2)


def bell(**methods):
    """A bell with other methods, as functions of the model and what they are given."""
    model = Bell(PLANE)
    for name, method in methods.items():
        setattr(model, name, method.__get__(model))
    return model


def only(found, name):
    """The finding of this name, which is the only one that fails."""
    assert [f.check for f in found.failures] == [name], str(found)
    assert found.findings[0] is found.failures[0]
    (failure,) = found.failures
    assert failure.evidence and failure.remedy and failure.condition
    return failure


def read(check, model, x, y=None, **known):
    """One check of a case."""
    known = {"data": None, "history": (), "info": {}, "state": {}} | known
    return check(Case(model, x, y, **known))


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_sound_model_is_silent():
    found = doctor(bell(), rows())
    assert not found.failures
    assert str(found).count("\n") == 0, str(found)
    assert 0 < found.false_alarm < 0.01


def test_a_constant_left_out_is_a_mass_that_is_not_one():
    """log p is too high by ½ everywhere, so that it integrates to √e."""
    found = only(doctor(bell(log_p=lambda self, x: Bell.log_p(self, x) + 0.5), rows()), "mass")
    assert found.value == pytest.approx(math.exp(0.5), rel=0.15)


def test_the_masses_of_all_states_are_summed():
    space = Binary((3,))
    model = likeli.Independent(space)
    model.fit_closed_form(torch.randint(2, (50, 3)))
    x = torch.randint(2, (50, 3))
    assert read(number_checks.mass, model, x).value == pytest.approx(1, abs=1e-6)
    model.cells.log_pmf.data += 0.1
    wrong = read(number_checks.mass, model, x)
    assert wrong.status == "fails" and wrong.value == pytest.approx(math.exp(0.3), rel=1e-5)


def test_a_bound_may_have_less_mass_but_not_more():
    under = bell(log_p=lambda self, x: Bell.log_p(self, x) - 0.5)
    under.measure_likelihood = lambda x, y=None: LogLikelihood(under.log_p(x), Knows.LOWER_BOUND, "density", dimensions=2)
    assert read(number_checks.mass, under, normal(200)).status == "passes"
    over = bell()
    over.measure_likelihood = lambda x, y=None: LogLikelihood(over.log_p(x) + 0.5, Knows.LOWER_BOUND, "density", dimensions=2)
    assert read(number_checks.mass, over, normal(200)).status == "fails"


def test_a_sampler_hotter_than_its_density_is_named():
    found = only(doctor(bell(draw=lambda self, noise, y=None: 1.8 * noise.normal(2)), rows()), "sampler")
    assert found.value == pytest.approx(0.001)
    assert found.false_alarm == 0.001


def test_a_loss_below_every_bound_is_no_bound():
    found = only(doctor(bell(loss=lambda self, x, y=None: -self.log_p(x) - 1), rows()), "loss is a bound")
    assert found.value == pytest.approx(-1)


def test_a_beta_below_one_is_no_bound():
    """The loss of a VAE with beta 0.1 is E log p(x|z) − 0.1 KL, above its own bound on log p."""
    model = chain(4, latents=2, full=True)
    model.loss = lambda x, y=None: -(b := model.elbo(x, y)).reconstruction + 0.1 * b.kl.sum(1)
    found = read(number_checks.loss_is_a_bound, model, data(model, 200))
    assert found.status == "fails"
    model.loss = lambda x, y=None: -model.elbo(x, y).value
    assert read(number_checks.loss_is_a_bound, model, data(model, 200)).status == "passes"


def test_scores_that_do_not_read_x_are_constant():
    flat = bell(log_p=lambda self, x: 0 * x.double().sum(1) - 3.0)
    assert read(number_checks.scores_differ, flat, normal(100)).status == "fails"
    noisy = bell(log_p=lambda self, x: 0 * x.double().sum(1) - 3.0)
    noisy.measure_likelihood = lambda x, y=None: LogLikelihood(
        noisy.log_p(x) + torch.randn(len(x)).double(), Knows.LOWER_BOUND, "density", torch.ones(len(x))
    )
    found = read(number_checks.scores_differ, noisy, normal(100))
    assert found.status == "fails" and found.value > 0.2  # all of it noise


def test_batch_statistics_are_company():
    found = only(doctor(bell(log_p=lambda self, x: Bell.log_p(self, x - 0.2 * x.mean(0))), rows()), "company")
    assert found.value > 1e-3


def test_dropout_that_stays_on_is_named_and_its_calls_are_counted():
    """`F.dropout(x)` is on by default, whatever the mode of the model."""
    found = read(number_checks.noise_at_scoring, bell(log_p=lambda self, x: Bell.log_p(self, F.dropout(x, 0.1))), normal(50))
    assert found.status == "fails" and "dropout was on in 2 calls" in found.evidence
    for layer in (torch.nn.Dropout(0.1), ByteDropout(0.1), NormConv(2, 2, 0.1)):
        model = bell(log_p=lambda self, x, layer=layer: Bell.log_p(self, x) + 0 * layer(x.reshape(1, 2, -1, 1).float()).sum())
        model.add_module("layer", layer)
        assert read(number_checks.noise_at_scoring, model, normal(50)).status == "passes"
        layer.train().eval = lambda: None  # deaf to `model.eval()`
        layer.train = lambda mode=True: None
        assert "dropout was on in 2 calls" in read(number_checks.noise_at_scoring, model, normal(50)).evidence


def test_draws_that_no_error_owns_up_to_are_noise_at_scoring():
    noisy = bell(log_p=lambda self, x: Bell.log_p(self, x) + torch.randn(len(x)).double())
    assert read(number_checks.noise_at_scoring, noisy, normal(64)).status == "fails"
    for stated, status in ((1.0, "passes"), (0.2, "fails")):
        noisy.measure_likelihood = lambda x, y=None, s=stated: LogLikelihood(
            noisy.log_p(x), Knows.LOWER_BOUND, "density", torch.full((len(x),), s)
        )
        assert read(number_checks.noise_at_scoring, noisy, normal(64)).status == status


# --- latents ----------------------------------------------------------------------------------------------------------


def test_an_encoder_beside_the_posterior_leaves_weights_without_a_mean():
    model = chain(6, latents=3, noise=0.3, full=True)
    x = data(model, 100)
    assert read(number_checks.importance_weights, model, x).status == "passes"
    infer = model.infer
    model.infer = lambda x, y=None: diagonal_gaussian((q := infer(x, y)).mean + 1.5, 0.05 * torch.ones_like(q.mean))
    assert read(number_checks.importance_weights, model, x).status == "fails"


def test_collapse_is_named():
    model = chain(4, latents=2)
    with torch.no_grad():
        model.encoder.zero_()
        model.log_s.zero_()
    found = read(number_checks.posterior_collapse, model, data(model, 300))
    assert found.status == "fails" and found.value == pytest.approx(0, abs=1e-9)


def test_a_prior_hole_is_named():
    model = chain(4, latents=1)
    x = data(model, 400)
    heap = torch.where(torch.arange(400) % 2 == 0, 1.5, -1.5)[:, None].double()
    model.infer = lambda x, y=None: diagonal_gaussian(heap[: len(x)], torch.full((len(x), 1), 0.2).double())
    found = read(number_checks.prior_hole, model, x)
    assert found.status == "fails" and found.value > 0.3
    sound = chain(4, latents=2, noise=1.5, full=True)
    assert read(number_checks.prior_hole, sound, data(sound, 400)).status == "passes"


def test_a_chain_of_symbols_is_not_asked_for_importance_weights_over_all_its_steps():
    model = likeli.DiscreteDiffusion(Binary((3,)))
    assert read(number_checks.importance_weights, model, torch.ones(40, 3, dtype=torch.long)).status == "does not apply"


def test_noise_that_leaves_symbols_apart_is_no_fault_of_a_schedule():
    """Half the distance of two unit vectors, √2/2, is four of a default's first σ, 0.18, and one and a half of the other's."""
    x = torch.ones(4, 3, dtype=torch.long)
    for gamma, status in (((None, None), "passes"), ((-1.5, None), "fails")):
        model = likeli.VDM(Tokens(3, 5), gamma=gamma)
        assert read(training_checks.noise_schedule, model, x).status == status


class Told(GenerativeModel):
    """N(w y, I) for a label y of 0 or 1; w = 0 leaves y unread."""

    knows = Knows.EXACT
    strategy = "closed_form"
    kinds = ("real",)

    def __init__(self, space: Real, w: float = 2.0) -> None:
        super().__init__(space)
        self.condition, self.w = Labels(2), w

    def loss(self, x, y=None):
        return 0.5 * (x - self.w * y[:, None]).square().sum(1) + math.log(2 * math.pi)

    def measure_likelihood(self, x, y=None):
        return LogLikelihood(-self.loss(x, y).double(), Knows.EXACT, "density", dimensions=2)

    def draw(self, noise, y=None):
        return self.w * y[:, None] + noise.normal(2)


def test_a_condition_that_is_not_read_is_named():
    y = torch.arange(200) % 2
    x = normal(200) + 2.0 * y[:, None]
    assert doctor(Told(PLANE, 2.0), x, y).failures == ()
    assert [f.check for f in doctor(Told(PLANE, 0.0), x, y).failures] == ["condition"]


# --- schedules and training -------------------------------------------------------------------------------------------


def diffusion(noise):
    with seeded(0):
        return likeli.VDM(PLANE, likeli.DenoiserBackbone(hidden=(8,)), noise=noise)


def test_a_schedule_that_ends_too_early_is_a_terminal_mismatch():
    x = normal(50)
    with pytest.warns(UserWarning, match="terminal mismatch"):
        found = read(number_checks.terminal_mismatch, diffusion(LogLinear(-13.3, 1.0)), x)
    assert found.status == "fails" and found.value > 0.01
    assert read(number_checks.terminal_mismatch, diffusion(LogLinear(-13.3, 8.0)), x).status == "passes"


class Steplike(LogLinear.__mro__[1]):
    """log SNR that falls at once half-way."""

    def gamma(self, t):
        return -10 + 15 * torch.sigmoid((t - 0.5) * 2000)


class Rising(LogLinear.__mro__[1]):
    """log SNR that goes back on its way."""

    def gamma(self, t):
        return -10 + 15 * t + 3 * torch.sin(12 * t)


@pytest.mark.parametrize("noise", [LogLinear(-2.0, 5.0), Steplike(), Rising()])
def test_a_schedule_that_starts_blurred_jumps_or_goes_back_is_named(noise):
    assert read(training_checks.noise_schedule, diffusion(noise), normal(10)).status == "fails"


@pytest.mark.parametrize("noise", ["learned", "log_linear", "cosine"])
def test_our_schedules_are_sound(noise):
    assert read(training_checks.noise_schedule, diffusion(noise), normal(10)).status == "passes"


RUN = {"training": {"steps": 100, "warmup": 0.05, "ema": 0.0, "batch": 32}, "metrics": {"step": 100, "best": None}}
HISTORY = [{"step": s, "loss": 3.0 - s / 100, "lr": 1e-3} for s in range(10, 101, 10)]


@pytest.mark.parametrize("info,state", [
    (RUN, {"finished": None, "memory": {}}),  # broken off
    (RUN | {"metrics": {"step": 100, "best": {"step": 3, "valid": 1.0}}}, {}),  # no better than at the start
    (RUN, {"finished": "steps", "memory": {"skipped": 30}}),
])
def test_a_run_that_was_broken_off_or_never_got_better_is_named(info, state):
    found = read(training_checks.rate_of_learning, bell(), normal(10), history=HISTORY, info=info, state=state)
    assert found.status == "fails"
    sound = read(training_checks.rate_of_learning, bell(), normal(10), history=HISTORY, info=RUN, state={"finished": "steps"})
    assert sound.status == "passes"


def tied(n=400):
    """Two columns that are nearly one, which a flow can learn."""
    return torch.stack([normal(n)[:, 0]] * 2, 1) + 0.05 * normal(n, seed=1)


def small_flow(space):
    with seeded(0):
        return likeli.Flow(space, transforms=2, hidden=(8,))


def test_training_without_effect_is_named():
    x = tied()
    model = small_flow(PLANE)
    likeli.fit(model, x, steps=2, progress=False, lr=1e-9)
    assert read(training_checks.training_had_an_effect, model, x[:100]).status == "fails"
    likeli.fit(model, x, steps=100, progress=False, lr=1e-2)
    assert read(training_checks.training_had_an_effect, model, x[:100]).status == "passes"


def test_an_average_that_remembers_its_start_is_young(monkeypatch):
    """Without the warm-up of its decay, 0.999^60 = 94 % of the average is the untrained weights."""
    def update(self):
        self.updates += 1
        torch._foreach_lerp_(*self._pairs, 1 - self.decay)

    known = likeli.load_data(tied().numpy(), fractions=(0.9, 0.0, 0.1))
    for plant in (False, True):
        if plant:
            monkeypatch.setattr(EMA, "update", torch.no_grad()(update))
        model = small_flow(known.space)
        history = likeli.fit(model, known, steps=60, progress=False, lr=1e-2)
        info = {"training": {"ema": 0.999, "batch": 128}}
        case = {"data": known, "history": history.rows, "info": info}
        found = read(training_checks.young_average, model, known.split("test")[0], **case)
        assert found.status == ("fails" if plant else "passes"), found


@pytest.mark.parametrize("row", [{"loss": math.nan}, {"loss": "nan"}, {"gradient": math.inf}, {"valid": "-Infinity"}])
def test_a_number_that_is_none_in_the_history_is_named(row):
    history = [*HISTORY, {"step": 110} | row]
    found = only(doctor(bell(), rows(), history=history), "history")
    assert "step 110" in found.evidence


def test_a_diverged_run_and_a_broken_weight_are_named():
    assert "diverged at step 7" in only(doctor(bell(), rows(), info={"diverged": "diverged at step 7"}), "history").evidence
    model = bell()
    model.w = torch.nn.Parameter(torch.tensor([1.0, math.nan]))
    assert only(doctor(model, rows()), "history").value == 1


def test_constants_of_a_table_that_are_infinite_are_no_broken_weights():
    """The cells of a column's marginal end at ±∞ and are filled up with ∞; they are no part of what is learned."""
    data = likeli.load_data(pd.DataFrame({"a": range(50), "b": [0.5, 1.25] * 25}))
    model = likeli.VAE(data.space, 2)
    assert not all(buffer.isfinite().all() for buffer in model.buffers())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert read(training_checks.history, model, data.x[:20]).status == "passes"


def test_copies_of_training_rows_are_memorised():
    known = rows(300)
    train = known.split("train")[0]

    def draw(self, noise, y=None):
        return train[(noise.uniform() * len(train)).long()] + 1e-3 * noise.normal(2)

    found = read(training_checks.memorisation_of_rows, bell(draw=draw), known.split("test")[0], data=known)
    assert found.status == "fails" and found.value > 0.9
    assert read(training_checks.memorisation_of_rows, bell(), known.split("test")[0], data=known).status == "passes"


# --- data -------------------------------------------------------------------------------------------------------------


def test_a_constant_column_is_named():
    known = rows()
    x = known.x.clone()
    x[:, 1] = 2.5
    found = read(data_checks.constant_columns, bell(), x, data=dataclasses.replace(known, x=x))
    assert found.status == "fails" and "column 2" in found.evidence
    assert read(data_checks.constant_columns, bell(), known.x, data=known).status == "passes"


def test_repeated_rows_are_named():
    known = rows()
    x = known.x.clone()
    x[known.train[:50]] = x[known.train[50:100]]
    found = only(doctor(bell(), dataclasses.replace(known, x=x)), "duplicated rows")
    assert found.value == pytest.approx(50 / len(known.train))


def test_repeated_rows_of_a_table_with_masses_are_named():
    """A column of which a fifth is 0 exactly has a mass there, and no tie; its rows are still no symbols."""
    import pandas

    u = normal(300).numpy()
    u[::5, 0] = 0.0
    u[200:] = u[100:200]
    sort = ["some" if v > 0 else "none" for v in u[:, 1]]
    known = likeli.load_data(pandas.DataFrame({"a": u[:, 0], "b": u[:, 1], "sort": sort}))
    case = {"data": known}
    model = likeli.Independent(known.space)
    assert read(data_checks.duplicated_rows, model, known.x, **case).status == "fails"
    assert known.space.columns[0].marginal.atoms
    assert "a" not in read(data_checks.ties, model, known.x, **case).evidence.partition("tied: ")[2]


def test_rows_in_two_parts_are_leaks():
    known = rows()
    x = known.x.clone()
    x[known.test] = x[known.train[: len(known.test)]]
    found = only(doctor(bell(), dataclasses.replace(known, x=x)), "leaking rows")
    assert found.value == pytest.approx(0.5)  # the test part, of validation and test


def test_symbols_that_repeat_by_chance_are_no_leak():
    with seeded(0):
        known = likeli.load_data(torch.randint(2, (300, 4)).numpy())
    model = likeli.Independent(known.space)
    case = {"data": known}
    assert read(data_checks.leaking_rows, model, known.x, **case).status == "passes"
    assert read(data_checks.duplicated_rows, model, known.x, **case).status == "does not apply"


def test_ties_and_rounding_are_named():
    known = rows(600)
    atom, rounded = known.x.clone(), known.x.clone()
    atom[::5, 0] = 0.0
    rounded[:, 1] = (10 * rounded[:, 1]).round() / 10
    for x, column in ((atom, "column 1"), (rounded, "column 2")):
        found = read(data_checks.ties, bell(), x, data=dataclasses.replace(known, x=x))
        assert found.status == "fails" and column in found.evidence
    assert read(data_checks.ties, bell(), known.x, data=known).status == "passes"


# --- the whole --------------------------------------------------------------------------------------------------------


def test_every_check_has_a_fault_planted_here():
    source = Path(__file__).read_text(encoding="utf-8")
    functions = {c.read.__name__: c.name for c in CHECKS}
    assert len(functions) == len(CHECKS) == 21
    assert not [name for function, name in functions.items() if f".{function}," not in source and f'"{name}"' not in source]


def test_numbers_that_are_none_fail_and_bad_rows_are_refused():
    lost = doctor(bell(log_p=lambda self, x: Bell.log_p(self, x) * math.nan), rows())
    assert {"mass", "scores differ"} <= {f.check for f in lost.failures}
    with pytest.raises(likeli.InputError, match="rows: expected at least 2"):
        doctor(bell(), rows(), rows=1)
    with pytest.raises(likeli.InputError, match="shape"):
        doctor(bell(), torch.zeros(5, 3))


def ring():
    return likeli.load_data(likeli.load_data("ring8").x[:800].numpy())


def chain_of_symbols():
    known = likeli.load_data("markov")
    return dataclasses.replace(known, x=known.x[:600], y=None, train=torch.arange(480), valid=torch.arange(480, 540),
                               test=torch.arange(540, 600))  # fmt: skip


SOUND = {  # data, model, how it is fitted
    "gmm": (ring, lambda d: likeli.GMM(d.space, components=8), {}),
    "flow": (ring, lambda d: likeli.Flow(d.space, transforms=3, hidden=(16,)), {"steps": 300}),
    "vdm": (ring, lambda d: likeli.VDM(d.space, likeli.DenoiserBackbone(hidden=(32, 32)), steps=32), {"steps": 600}),
    "autoregressive": (
        chain_of_symbols,
        lambda d: likeli.Autoregressive(d.space, likeli.CausalBackbone("made", hidden=(32,))),
        {"steps": 300},
    ),
    "vae": (
        lambda: likeli.load_data("digits"),
        lambda d: likeli.VAE(d.space, 8, likeli.CoderBackbone(hidden=(64,)), condition=d.condition),
        {"steps": 500},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_sound_runs_are_silent(name, tmp_path):
    """Whatever the seed of the examination: three of them, none of which fails anything."""
    known, make, how = SOUND[name]
    known = known()
    with seeded(0):
        model = make(known)
    likeli.fit(model, known, progress=False, out=tmp_path / "run", **how)
    saved = checkpoint.read(tmp_path / "run")
    told = {"history": checkpoint.read_history(tmp_path / "run"), "info": saved.info, "state": saved.state}
    for seed in range(3):
        found = doctor(saved.model, known, rows=128, seed=seed, **told)
        assert not found.failures, str(found)
        assert str(found).count("\n") == 0, str(found)


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_is_said():
    """Of 60 examinations of a sound model at most 2 fail anything: at the stated 0.0031 each, more has a chance of 1e-3."""
    known, model = rows(400), bell()
    failed = [str(found) for seed in range(60) if (found := doctor(model, known, seed=seed)).failures]
    assert len(failed) <= 2, failed


def test_the_command_says_what_the_library_finds(tmp_path, capsys):
    folder = str(tmp_path / "run")
    fit = ["fit", "ring8", "--model", "gmm", "--model.components", "8", "--quiet", "--out", folder]
    assert main(fit) == 0
    capsys.readouterr()
    assert main(["doctor", folder, "--rows", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    saved = checkpoint.read(folder)
    truth = doctor(saved.model, likeli.load_data("ring8"), history=checkpoint.read_history(folder), info=saved.info, rows=100)
    assert found == json.loads(json.dumps(truth.row()))
    checkpoint.annotate(folder, {"diverged": "training diverged at step 3"})
    assert main(["doctor", folder, "--rows", "60"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("fails") and "training diverged at step 3" in out and "try: " in out

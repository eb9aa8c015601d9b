"""A few-step student against its teacher's flow."""

import pytest
import torch

import likeli
from likeli.contract import Knows
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.schedule import LogLinear
from likeli.errors import InputError, Unsupported
from likeli.models.distilled import Distilled
from likeli.models.flow_matching import FlowMatching
from likeli.models.vdm import VDM
from likeli.random import seeded
from likeli.spaces import Pixels, Real


def pair(**options):
    with seeded(0, "pair"):
        return Distilled(Real((2,)), VDM(Real((2,)), backbone=DenoiserBackbone(hidden=(16,))), frozen=True, **options)


def gaussian():
    """A teacher that knows N(0.4, 0.25) exactly, in double precision."""
    student = pair(steps=3, substeps=40).double()
    one = torch.ones(1, dtype=torch.float64)
    student.teacher.denoiser = MixtureDenoiser(
        LogLinear(-8, 8), one, torch.full((1, 2), 0.4, dtype=torch.float64), torch.full((1, 2), 0.25, dtype=torch.float64)
    )
    return student


class Jump(torch.nn.Module):
    """x̂ whose DDIM step from t to s is the exact flow of N(m, v): it keeps (z − α m)/√(α² v + σ²)."""

    def __init__(self, schedule, times):
        super().__init__()
        self.schedule, self.times = schedule, times

    def forward(self, z, at, y=None):
        k = int((self.times - at.t).abs().argmin())
        t, s = (self.schedule.at(v) for v in self.times[k : k + 2])
        spread = [(p.alpha**2 * 0.25 + p.sigma**2).sqrt() for p in (t, s)]
        end = s.alpha * 0.4 + (z - t.alpha * 0.4) * spread[1] / spread[0]
        keep = s.sigma / t.sigma
        x = (end - keep * z) / (s.alpha - keep * t.alpha)
        return type(self).prediction(x, z, t)

    @staticmethod
    def prediction(x, z, t):
        from likeli.diffusion.denoiser import Prediction

        return Prediction.of_x(x, z, t.alpha, t.sigma)


def test_the_exact_jump_has_no_loss_and_another_has():
    """The teacher's 40 substeps of order 2 on the flow of a Gaussian err by less than 1e-4 of its spread: below 1e-6."""
    student, x = gaussian(), torch.randn(30, 2, dtype=torch.float64)
    student.student = Jump(student.teacher.schedule, student.times()[:: student.substeps])
    with seeded(1):
        assert student.loss(x).max().item() < 1e-6
    student.student = student.teacher.denoiser
    with seeded(1):
        assert student.loss(x).mean().item() > 1e-2


def test_it_starts_as_its_teacher_at_the_same_few_steps():
    """Untrained, the student is the teacher under DDIM on the student's grid, bit for bit."""
    student = pair(steps=5, substeps=3)
    grid = tuple(student.times()[::3].tolist())
    assert torch.equal(student.sample(7, seed=3), student.teacher.sample(7, seed=3, sampler="ddim", grid=grid))


def test_only_the_student_learns():
    student = pair()
    student.train().loss(torch.randn(8, 2)).mean().backward()
    assert all(p.grad is None for p in student.teacher.parameters())
    assert any(p.grad is not None for p in student.student.parameters())
    assert not student.teacher.training


def test_it_claims_nothing_and_names_who_knows():
    student = pair()
    assert student.knows is Knows.NOTHING
    with pytest.raises(Unsupported, match="teacher"):
        student.log_likelihood(torch.zeros(1, 2))
    assert student.teacher.log_likelihood(torch.zeros(1, 2)).value.isfinite()


def test_bad_requests():
    with pytest.raises(InputError, match="steps"):
        Distilled(Real((2,)), steps=0)
    with pytest.raises(InputError, match="teacher: expected one of the same space"):
        Distilled(Real((3,)), VDM(Real((2,)), backbone=DenoiserBackbone(hidden=(8,))))
    with pytest.raises(InputError, match="diffusion model"):
        Distilled.of(likeli.AE(Pixels((2, 2), 4)))


def test_saved_and_loaded_it_samples_the_same(tmp_path):
    student = pair(steps=2)
    likeli.save(student, tmp_path / "few")
    assert torch.equal(likeli.load(tmp_path / "few").sample(5), student.sample(5))


@pytest.mark.slow
def test_four_steps_do_what_takes_the_teacher_more():
    """Eight modes, 2000 samples against 2000 held-out ones: the student's area under the classifier's curve at four steps lies
    nearer one half than its teacher's best at four steps, by more than four standard errors of the difference."""
    data = likeli.load_data("ring8")
    with seeded(0, "weights"):
        teacher = FlowMatching(data.space, backbone=DenoiserBackbone(hidden=(64, 64)))
    likeli.fit(teacher, data, steps=1500, progress=False)
    student = Distilled.of(teacher, steps=4)
    likeli.fit(student, data, steps=800, progress=False)
    truth = data.truth.sample(2000, 1)
    ours, error = likeli.c2st(student.sample(2000), truth)
    for sampler, grid in (("adams", "optimal"), ("ddim", "optimal")):
        auc, other = likeli.c2st(teacher.sample(2000, steps=4, sampler=sampler, grid=grid), truth)
        assert auc - ours > 4 * (error**2 + other**2) ** 0.5

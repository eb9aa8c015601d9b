"""A trained diffusion model made quick."""

from __future__ import annotations

import copy
from typing import Any

from likeli.core import GenerativeModel
from likeli.errors import require
from likeli.models.distilled import Distilled
from likeli.models.gaussian_diffusion import GaussianDiffusion
from likeli.training.fit import fit

UPDATES = 1500


def distil(
    teacher: GenerativeModel, data: Any, y: Any = None, *, steps: int = 4, substeps: int = 6, **training: Any
) -> Distilled:
    """A student that samples in `steps` evaluations what the teacher's probability flow gives in many.

    Arguments:
        teacher: a trained diffusion model; it is copied and left as it is.
        data, y: as for `fit`; the rows that the student starts its jumps from.
        steps: evaluations of one sample, 1 to 64.
        substeps: the teacher's evaluations in each of them.
        training: what `fit` takes; its own `steps` is called `updates` here [1500].

    Raises:
        InputError: the teacher is not a diffusion model.
    """
    require(isinstance(teacher, GaussianDiffusion), "teacher", "a diffusion model such as vdm", teacher.kind())
    assert isinstance(teacher, GaussianDiffusion)
    student = Distilled(teacher.space, copy.deepcopy(teacher), steps, substeps, frozen=True, condition=teacher.condition)
    updates = training.pop("updates", None if training.get("minutes") else UPDATES)
    fit(student, data, y, steps=updates, **training)
    return student

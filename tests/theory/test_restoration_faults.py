"""A fault is planted where each check of restoration looks, and each must see it."""

import pytest
import torch

from likeli.diffusion.restoration import Replacement, matching
from likeli.diffusion.restoration.reading import Reading
from likeli.evaluation import restoration as restoring
from likeli.theory import check as verify
from likeli.theory import restoration


def timid(patch):
    """A tenth of what y says is left out."""
    whole = matching.whitened
    patch.setattr(matching, "whitened", lambda *given: (0.9 * whole(*given)[0], whole(*given)[1]))


def unprojected(patch):
    """Draws are not made to fit."""
    patch.setattr(Reading, "projected", lambda self, u: u)


def louder(name):
    """σ is taken for twice what it is."""

    def plant(patch):
        function = getattr(restoration, name)
        patch.setattr(restoration, name, lambda a, b, sigma, *rest: function(a, b, 2 * sigma, *rest))

    return plant


def replacing(patch):
    """Known cells are put in their place, and the hidden ones hear of them late."""
    patch.setattr(restoration, "MMPS", lambda steps, sampler: Replacement(steps))


def narrow(patch):
    """Draws spread by four fifths of what they should."""
    function = restoration.drawn

    def nearer(*given):
        x = function(*given)
        return x.mean(0) + 0.8 * (x - x.mean(0))

    patch.setattr(restoration, "drawn", nearer)


def always(patch):
    """Every proposal is taken."""
    equal = torch.zeros(())
    patch.setattr(restoring, "log_densities", lambda model, x, *rest: (equal.expand(len(x)), equal.expand(len(x))))


def content(patch):
    """Any misfit is in its range."""
    patch.setattr(restoring.Misfit, "fits", property(lambda self: True))


FAULTS = {
    "readings-condition-a-mixture": louder("given_reading"),
    "low-resolution-has-the-exact-posterior": timid,
    "colours-have-the-exact-posterior": replacing,
    "luminance-is-kept": unprojected,
    "holes-have-the-exact-posterior": replacing,
    "ranks-of-exact-draws-are-even": louder("draw_given_reading"),
    "intervals-cover-the-exact-conditional": narrow,
    "chains-fill-holes-exactly": always,
    "a-wrong-sigma-is-seen": content,
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_in_restoration_is_seen(name, monkeypatch):
    FAULTS[name](monkeypatch)
    (result,) = verify.run([name])
    assert not result.passed, f"error {result.error:.3g}"
    assert not result.note, result.note

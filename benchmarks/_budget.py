"""Trainings that end with a budget of CPU seconds: how many steps fit into it."""

import math

FEW, MORE, MARGIN = 10, 40, 0.97


def fitted_in(seconds, trained):
    """A model of as many steps as fit into the seconds, and the seconds that it took, its calibration among them.

    `trained(steps)` gives a model and its CPU seconds.  Two short runs tell what a step costs, and what a run costs beside it.
    """
    few, more = trained(FEW)[1], trained(MORE)[1]
    step = (more - few) / (MORE - FEW)
    once = max(few - FEW * step, 0)
    model, took = trained(max(1, math.floor(MARGIN * (seconds - few - more - once) / step)))
    return model, few + more + took

"""Training: `fit`, its settings, and what it reports."""

from likeli.training.fit import distil, fit
from likeli.training.history import History
from likeli.training.settings import TrainSettings

__all__ = ["History", "TrainSettings", "distil", "fit"]

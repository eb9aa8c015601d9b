"""Training: `fit`, its settings, and what it reports."""

from likeli.training import adversarial
from likeli.training.fit import fit
from likeli.training.history import History
from likeli.training.settings import TrainSettings

__all__ = ["History", "TrainSettings", "adversarial", "fit"]

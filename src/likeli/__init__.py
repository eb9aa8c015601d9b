"""likeli: deep generative models with one contract: fit, sample, and an honest log p(x)."""

__version__ = "0.1.0"

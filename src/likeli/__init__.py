"""likeli: deep generative models with one contract: fit, sample, and an honest log p(x).

    import likeli

    data = likeli.load_data("digits")
    model = likeli.VAE(data.space)
    likeli.fit(model, data, minutes=1)
    print(likeli.evaluate(model, *data.split("test")))

Names are looked up when they are first used, so that `import likeli` is quick and imports no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "likeli.core": "Elbo GenerativeModel Knows LatentCodec LogLikelihood",
    "likeli.errors": "CheckpointError Diverged InputError Interrupted LikeliError MissingExtra Unsupported",
    "likeli.space": "Binary Counts Labels Pixels Real Space Tokens",
    "likeli.table": "Table",
    "likeli.config": "build describe registered",
    "likeli.random": "Ambient Replay Streams seeded",
    "likeli.data": "Data load_data",
    "likeli.checkpoint": "from_pretrained load save save_pretrained",
    "likeli.training": "History TrainSettings fit",
    "likeli.training.distil": "distil",
    "likeli.analysis.few_steps": "Quality quality_per_step",
    "likeli.models.gmm": "select_components",
    "likeli.analysis.likelihood": "Evaluation evaluate",
    "likeli.analysis.imputation": "impute",
    "likeli.analysis.explain_loss": "explain_loss",
    "likeli.analysis.noise_levels": "noise_levels",
    "likeli.analysis.noise_denoised": "denoised",
    "likeli.analysis.noise_schedules": "schedule_variance",
    "likeli.analysis.anomaly": "anomaly",
    "likeli.analysis.classify": "classify",
    "likeli.analysis.collapse": "diagnose_latents",
    "likeli.analysis.two_sample": "ClassifierTest c2st classifier_test",
    "likeli.analysis.latent": "arithmetic bilinear decode_codes embed interpolate reconstruct traverse",
}
_MODULE = {name: module for module, names in _PUBLIC.items() for name in names.split()}
_TORCH_FREE = {"likeli.errors", "likeli.config"}
_ROOMS = {
    *["analysis", "checkpoint", "config", "core", "data", "diffusion", "distributions", "errors"],
    *["information", "models", "nn", "observation", "random", "space", "training"],
}


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it; families come from `likeli.models`."""
    if name.startswith("_"):
        raise AttributeError(f"module 'likeli' has no attribute {name!r}")
    if name in _ROOMS:
        return import_module(f"likeli.{name}")
    module = _MODULE.get(name, "likeli.models")
    if module not in _TORCH_FREE:
        import_module("likeli.models")  # every family is registered before anything is built or loaded
    if not hasattr(import_module(module), name):
        raise AttributeError(f"module 'likeli' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE, *import_module("likeli.models").__all__})

"""likeli: deep generative models with one contract: fit, sample, and an honest log p(x).

    import likeli

    data = likeli.load_data("digits")
    model = likeli.VAE(data.space)
    likeli.fit(model, data, minutes=1)
    print(likeli.evaluate(model, data.split("test")[0]))

Names are looked up when they are first used, so that `import likeli` is quick and imports no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "likeli.contract": "Coded Elbo GenerativeModel Knows LogLikelihood",
    "likeli.errors": "CheckpointError Diverged InputError Interrupted LikeliError MissingExtra Unsupported",
    "likeli.spaces": "Binary Counts Labels Pixels Real Space Table Tokens",
    "likeli.config": "build describe registered",
    "likeli.random": "Ambient Replay Streams seeded",
    "likeli.data": "Data load_data",
    "likeli.data.frozen_encoder": "FrozenEncoder",
    "likeli.checkpoint": "from_pretrained load save save_pretrained",
    "likeli.training": "History TrainSettings fit",
    "likeli.models.gmm": "select_components",
    "likeli.evaluation.likelihood": "Evaluation evaluate",
    "likeli.evaluation.imputation": "impute",
    "likeli.evaluation.restoration": "Restoration restore",
    "likeli.probability.explain_loss": "explain_loss",
    "likeli.models.vae": "CoderBackbone LatentPrior VariationalObjective",
    "likeli.models.autoregressive": "CausalBackbone",
    "likeli.models.hvae": "LadderBackbone",
    "likeli.models.ddpm": "NoiseObjective",
    "likeli.diffusion.networks": "DenoiserBackbone",
    "likeli.diffusion.flow_error": "flow_errors",
    "likeli.discrete.backbone": "SymbolBackbone",
    "likeli.energy.annealing": "LogZ",
    "likeli.energy.unnormalised": "Contrast",
    "likeli.models.gan": "AdversarialObjective",
    "likeli.diffusion.levels": "denoised noise_levels",
    "likeli.diffusion.schedule_variance": "schedule_variance",
    "likeli.evaluation.one_model": "log_conditional",
    "likeli.evaluation.rows": "anomaly classify",
    "likeli.evaluation.where": "RowsWhere sample_where",
    "likeli.evaluation.blind_spots": "BlindSpots blind_spots",
    "likeli.evaluation.cost": "network_calls",
    "likeli.evaluation.collapse": "diagnose_latents",
    "likeli.evaluation.doctor": "doctor",
    "likeli.evaluation.examination": "Examination Finding",
    "likeli.evaluation.two_sample": "ClassifierTest Quality c2st classifier_test quality_per_step",
    "likeli.evaluation.own_density": "SamplerTest sampler_test",
    "likeli.evaluation.panel": "TwoSampleTest memorisation two_sample_test",
    "likeli.evaluation.sample_metrics": "SampleMetric network_features sample_metrics",
    "likeli.latent.codes": "arithmetic bilinear decode_codes embed interpolate reconstruct traverse",
}
_MODULE = {name: module for module, names in _PUBLIC.items() for name in names.split()}
_TORCH_FREE = {"likeli.errors", "likeli.config"}
_ROOMS = {
    *["checkpoint", "config", "contract", "data", "diffusion", "discrete", "energy", "errors", "estimator", "evaluation"],
    *["gaussian", "latent", "models", "nn", "probability", "processes", "random", "spaces", "theory", "training"],
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

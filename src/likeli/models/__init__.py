"""Every family; importing this room fills the registry."""

from likeli.config import registered
from likeli.contract import GenerativeModel
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.latent.chain import Hierarchy
from likeli.models.autoencoder import AE, CAE, DAE
from likeli.models.autoregressive import Autoregressive
from likeli.models.boosted_trees import BoostedTrees
from likeli.models.categorical_mixture import CategoricalMixture
from likeli.models.ddpm import DDPM
from likeli.models.density import DensityModel
from likeli.models.discrete_diffusion import DiscreteDiffusion
from likeli.models.distilled import Distilled
from likeli.models.ebm import EBM
from likeli.models.edm import EDM
from likeli.models.factor_analysis import FactorAnalysis
from likeli.models.flow import Flow
from likeli.models.flow_matching import FlowMatching
from likeli.models.gan import GAN
from likeli.models.gmm import GMM
from likeli.models.hvae import HVAE
from likeli.models.independent import Independent
from likeli.models.markov_hvae import MarkovHVAE
from likeli.models.ppca import PPCA
from likeli.models.rbm import RBM
from likeli.models.score_sde import ScoreSDE
from likeli.models.vae import VAE
from likeli.models.vdm import VDM

__all__ = [
    "AE",
    "CAE",
    "DAE",
    "DDPM",
    "EBM",
    "EDM",
    "GAN",
    "GMM",
    "HVAE",
    "PPCA",
    "RBM",
    "VAE",
    "VDM",
    "Autoregressive",
    "BoostedTrees",
    "CategoricalMixture",
    "DensityModel",
    "DiscreteDiffusion",
    "Distilled",
    "FactorAnalysis",
    "Flow",
    "FlowMatching",
    "GaussianDiffusion",
    "Hierarchy",
    "Independent",
    "MarkovHVAE",
    "ScoreSDE",
    "families",
]


def families() -> dict[str, type[GenerativeModel]]:
    """Every family by name, the user's own included."""
    return registered(GenerativeModel)  # type: ignore[type-abstract]

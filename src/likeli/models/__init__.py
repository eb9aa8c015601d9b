"""Every family; importing this room fills the registry."""

from likeli.models.autoencoder import AE, CAE, DAE
from likeli.models.density import DensityModel
from likeli.models.flow import Flow
from likeli.models.hierarchy import Hierarchy

__all__ = ["AE", "CAE", "DAE", "DensityModel", "Flow", "Hierarchy"]

"""Kinds of data and their heads: what one example is, and what a decoder's numbers mean, in nats of the user's own units."""

from likeli.spaces.alphabet import Alphabet, BytePairs, Bytes, Characters, Words
from likeli.spaces.base import Coding, Space, coding_of, counted, ended, extents
from likeli.spaces.counts import (
    Counts,
    DirichletMultinomial,
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from likeli.spaces.dates import Calendar
from likeli.spaces.head import Categorical, CategoricalCells, Cells, CodedCells, Emission, Observation, symbol_cells
from likeli.spaces.labels import Labels, like_training, with_shares
from likeli.spaces.marginal import Marginal, UnitVectors
from likeli.spaces.pixels import Bernoulli, Binary, DiscretisedLogistic, Pixels
from likeli.spaces.real import Gaussian, MixtureDensity, Real, StudentT
from likeli.spaces.table import Column, Dtype, Mixed, Table
from likeli.spaces.tokens import Tokens, caption_space

__all__ = [
    "Alphabet",
    "Bernoulli",
    "Binary",
    "BytePairs",
    "Bytes",
    "Calendar",
    "Categorical",
    "CategoricalCells",
    "Cells",
    "Characters",
    "CodedCells",
    "Coding",
    "Column",
    "Counts",
    "DirichletMultinomial",
    "DiscretisedLogistic",
    "Dtype",
    "Emission",
    "Gaussian",
    "Labels",
    "Marginal",
    "Mixed",
    "MixtureDensity",
    "Multinomial",
    "NegativeBinomial",
    "Observation",
    "Pixels",
    "Poisson",
    "Real",
    "Space",
    "StudentT",
    "Table",
    "Tokens",
    "UnitVectors",
    "Words",
    "ZeroInflatedNegativeBinomial",
    "caption_space",
    "coding_of",
    "counted",
    "ended",
    "extents",
    "like_training",
    "symbol_cells",
    "with_shares",
]

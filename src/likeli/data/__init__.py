"""Examples from anywhere, with their space and a split that is a function of a seed."""

from likeli.data.dataset import Data, refuse_missing, split_rows
from likeli.data.files import write_npy
from likeli.data.loaders import load_data, read_rows, rebuild
from likeli.data.sources import SOURCES, Source, describe_sources
from likeli.data.tables import columns_of, write_csv
from likeli.data.toys import Toy

__all__ = [
    "SOURCES",
    "Data",
    "Source",
    "Toy",
    "columns_of",
    "describe_sources",
    "load_data",
    "read_rows",
    "rebuild",
    "refuse_missing",
    "split_rows",
    "write_csv",
    "write_npy",
]

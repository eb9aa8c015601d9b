"""Examples from anywhere, with their space and a split that is a function of a seed."""

from likeli.data.builtin.sources import SOURCES, Source, describe_sources
from likeli.data.builtin.toys import Toy
from likeli.data.coded import load_parts, load_rows
from likeli.data.column_table import load_columns
from likeli.data.columns import columns_of, frame_of, join_parts, need_pyarrow, write_csv, write_parquet, write_part
from likeli.data.dataset import Data, refuse_missing, split_rows
from likeli.data.load import load_data, rebuild
from likeli.data.readers.h5ad import write_matrix
from likeli.data.readers.npy import write_npy

__all__ = [
    "SOURCES",
    "Data",
    "Source",
    "Toy",
    "columns_of",
    "describe_sources",
    "frame_of",
    "join_parts",
    "load_columns",
    "load_data",
    "load_parts",
    "load_rows",
    "need_pyarrow",
    "rebuild",
    "refuse_missing",
    "split_rows",
    "write_csv",
    "write_matrix",
    "write_npy",
    "write_parquet",
    "write_part",
]

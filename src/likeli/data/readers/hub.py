"""Data sets of the Hugging Face hub, through its `datasets` library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from likeli.data.builtin.sources import Raw
from likeli.data.readers.npy import memory_limit
from likeli.data.readers.tables import from_pandas
from likeli.errors import InputError, MissingExtra, nearest, require
from likeli.spaces import Labels

OPTIONS = ("split", "config", "revision")


def read_hub(name: str, given: dict[str, str]) -> Raw:
    """`hf:NAME`, with options split (default train), config and revision: a table, or its one column of pictures.

    Code that a data set brings is never run.

    Raises:
        MissingExtra: datasets is not installed.
        InputError: unknown, not reachable, or a form that is neither a table nor pictures.
    """
    for key in given:
        if key not in OPTIONS:
            raise InputError(f"hf:{name}: unknown option {key!r}; it has {', '.join(OPTIONS)}{nearest(key, OPTIONS)}")
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data", "reading hf: data") from error
    split = given.get("split", "train")
    try:
        loaded = datasets.load_dataset(name, given.get("config"), split=split, revision=given.get("revision"))
    except Exception as error:  # the library raises many kinds, of its own and of the network
        raise InputError(f"hf:{name}: cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    return from_dataset(loaded, f"hf:{name}")


def from_dataset(loaded: Any, name: str) -> Raw:
    """A `datasets.Dataset` as rows; a column of pictures is taken with a class column as labels."""
    pictures = [k for k, v in loaded.features.items() if type(v).__name__ == "Image"]
    if not pictures:
        return Raw(name, from_pandas(loaded.to_pandas(), name))
    require(len(pictures) == 1, name, "one column of pictures", ", ".join(pictures))
    x = torch.from_numpy(_stack(loaded, pictures[0], name))
    x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x
    classes = [k for k, v in loaded.features.items() if type(v).__name__ == "ClassLabel"]
    if len(classes) != 1:
        return Raw(name, x)
    names = tuple(map(str, loaded.features[classes[0]].names))
    return Raw(name, x, np.asarray(loaded[classes[0]]), condition=Labels(len(names), names))


def _stack(loaded: Any, column: str, name: str) -> np.ndarray:
    first = np.asarray(loaded[0][column])
    require(first.dtype == np.uint8, name, "pictures of 8 bits a channel", str(first.dtype))
    require(first.nbytes * len(loaded) <= memory_limit(), name, "pictures that fit into memory", f"{len(loaded):,} pictures")
    out = np.empty((len(loaded), *first.shape), np.uint8)
    for i, row in enumerate(loaded):
        picture = np.asarray(row[column])
        require(picture.shape == first.shape, f"{name}: row {i}", f"a picture of shape {first.shape}", picture.shape)
        out[i] = picture
    return out

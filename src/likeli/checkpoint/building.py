"""A model from the plain values of config.json, without trusting them with memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from likeli import __version__
from likeli.checkpoint.disk import one_line, refuse
from likeli.config import build, describe
from likeli.core import GenerativeModel
from likeli.errors import CheckpointError
from likeli.random import seeded

FORMAT = 1
KEYS = {"format": int, "likeli": str, "torch": str, "model": dict, "dtype": str, "step": int, "info": dict}
FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SPARE_BYTES, SPARE_CALLS = 1 << 27, 2_000  # what constructing may take beyond its weights: masks, tables, temporaries


def config_of(model: GenerativeModel, step: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of a model."""
    return {
        "format": FORMAT,
        "likeli": __version__,
        "torch": torch.__version__,
        "model": describe(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "step": step,
        "info": dict(info),
    }


def check_config(config: Any, where: object) -> dict[str, Any]:
    """The same value, if it has exactly the keys and types of `config_of`.

    Raises:
        CheckpointError: unknown, missing or mistyped key, unknown dtype, or a format of a later version.
    """
    refuse(not isinstance(config, dict), where, "an object", type(config).__name__)
    for key in config:
        near = get_close_matches(key, KEYS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        refuse(key not in KEYS, f"{where}: {key}", "a known key", f"an unknown one{hint}")
    for key, kind in KEYS.items():
        refuse(key not in config, f"{where}: {key}", "a value", "nothing")
        refuse(type(config[key]) is not kind, f"{where}: {key}", kind.__name__, config[key])
    refuse(config["format"] > FORMAT, where, f"format {FORMAT}", f"{config['format']}, of a later likeli: upgrade to read it")
    refuse(config["format"] < 1, where, f"format {FORMAT}", config["format"])
    refuse(config["dtype"] not in FLOATS, f"{where}: dtype", " or ".join(FLOATS), config["dtype"])
    refuse(config["step"] < 0, f"{where}: step", "0 or more", config["step"])
    return config


def build_model(config: Mapping[str, Any], weight_bytes: int, count: int, where: object) -> GenerativeModel:
    """The model that the config describes, its weights still random; the caller's random state is left untouched.

    Arguments:
        config: checked by `check_config`.
        weight_bytes, count: bytes and number of the tensors its file declares; constructing may not take much more.
        where: the file's name, for messages.

    Raises:
        CheckpointError: the config names what the code does not know, does not fit, or asks for more than its weights.
    """
    try:
        with seeded(0, "build"), bounded(SPARE_BYTES + 4 * weight_bytes, SPARE_CALLS + 20 * count):
            model = build(config["model"], GenerativeModel, where="model")  # type: ignore[type-abstract]
    except CheckpointError:
        raise
    except Exception as error:  # whatever a constructor says to a stranger's arguments
        message = re.sub(r"^(?=\w)", f"{where}: ", one_line(error)) or f"{where}: {type(error).__name__}"
        raise CheckpointError(message) from error
    dtype = FLOATS[config["dtype"]]
    return model if model.dtype == dtype else model.to(dtype)


@contextmanager
def bounded(size: int, calls: int) -> Iterator[None]:
    """Refuse, before memory is taken, tensors made inside the block beyond `size` bytes or `calls` calls in all."""
    with _Bounded(size, calls):
        yield


class _Bounded(TorchDispatchMode):
    def __init__(self, size: int, calls: int) -> None:
        super().__init__()
        self.size, self.calls = size, calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _makes(func, args):
            probe = func(*args, **{**kwargs, "device": "meta"})  # the shape without the memory
            self.size, self.calls = self.size - probe.nbytes, self.calls - 1
            too_much = self.size < 0 or self.calls < 0
            refuse(too_much, "config.json", "a model of the size of its weights", f"one with yet a tensor {tuple(probe.shape)}")
        return func(*args, **kwargs)


def _makes(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation makes a tensor from nothing but numbers."""
    return not any(isinstance(a, torch.Tensor) for a in args) and any(a.name == "device" for a in func._schema.arguments)

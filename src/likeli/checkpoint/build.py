"""What the records beside the weights may hold, and a model from the plain values of config.json, not trusted with memory."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from likeli import __version__
from likeli.config import build, coerce, describe
from likeli.contract import GenerativeModel
from likeli.errors import CheckpointError, InputError, nearest, one_line, require
from likeli.random import seeded

FORMAT = 1
PLUGIN = "likeli_plugin_"  # what the modules of the user's own files are called
KEYS = {"format": int, "likeli": str, "torch": str, "model": dict, "dtype": str, "step": int, "info": dict}
FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAKERS = {
    *(torch.empty, torch.empty_strided, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint),
    *(torch.randperm, torch.arange, torch.linspace, torch.logspace, torch.eye, torch.tril_indices, torch.triu_indices),
    *(torch.Tensor.new_empty, torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_full),
}
CELLS: dict[tuple[Any, int], Any] = {  # by function and number of arguments
    (torch.arange, 1): abs,
    (torch.arange, 2): lambda start, end: end - start,
    (torch.arange, 3): lambda start, end, step: (end - start) / step,
    (torch.eye, 1): lambda n: n * n,
    (torch.linspace, 3): lambda start, end, steps: steps,
}
MOST_STEPS = 10**10  # of training: a thousand a second for four months
COUNTS = ("step", "steps", "rows", "seed", "waiting", "skipped", "valid_rows")  # none of them below 0
Best = dict[str, float | int] | None
INFO: dict[str, dict[str, Any]] = {
    "data": {
        **dict.fromkeys(("name", "values", "fingerprint", "seal"), str),
        **dict.fromkeys(("source", "kind", "layer"), str | None),
        "labels": str | int | bool | list[int] | None,
        "categorical": list[str | int] | bool | None,
        "types": dict[str, Any] | None,
        "columns": list[str] | None,
        "label_dtype": dict[str, Any] | None,
        "seed": int,
        "fractions": list[float],
        **dict.fromkeys(("rows", "streamed", "files", "nonzero"), int),
        "split": dict[str, int],
        "truth": bool,
        "space": dict[str, Any],
        "condition": dict[str, Any] | None,
    },
    "training": {
        **dict.fromkeys(("strategy", "data_sha256"), str),
        **dict.fromkeys(("seed", "batch", "valid_rows"), int),
        **dict.fromkeys(("lr", "ema", "checkpoint_every"), float),
        "steps": int | None,
        "minutes": float | None,
    },
    "metrics": {"step": int, "seconds": float, "best": Best},
    "plugins": {},
}
STATE = {"step": int, "seconds": float, "memory": dict[str, Any], "rows": int, "finished": str | None}
SPARE_BYTES, SPARE_CALLS = 1 << 27, 2_000  # what constructing may take beyond its weights: masks, tables, temporaries


def config_of(model: Any, step: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of a model."""
    return {
        "format": FORMAT,
        "likeli": __version__,
        "torch": torch.__version__,
        "model": describe(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "step": step,
        "info": dict(info) | _plugins(model),
    }


def _plugins(model: Any) -> dict[str, list[str]]:
    """File names of the user's own files that the model's parts come from, to be named if they are missing; never loaded."""
    names = {type(part).__module__ for part in (*model.modules(), model.space)}
    files = sorted(Path(sys.modules[name].__file__ or "").name for name in names if name.startswith(PLUGIN))
    return {"plugins": files} if files else {}


def check_config(config: Any, where: object) -> dict[str, Any]:
    """The same value, if it has exactly the keys and types of `config_of`.

    Raises:
        CheckpointError: unknown, missing or mistyped key, unknown dtype, or a format of a later version.
    """
    require(isinstance(config, dict), where, "an object", type(config).__name__, CheckpointError)
    for key in config:
        if key not in KEYS:
            require(False, f"{where}: {key}", "a known key", f"an unknown one{nearest(key, KEYS)}", CheckpointError)
    for key, kind in KEYS.items():
        require(key in config, f"{where}: {key}", "a value", "nothing", CheckpointError)
        require(type(config[key]) is kind, f"{where}: {key}", kind.__name__, config[key], CheckpointError)
    known = f"format {FORMAT}"
    later = f"{config['format']}, of a later likeli: upgrade to read it"
    require(config["format"] <= FORMAT, where, known, later, CheckpointError)
    require(config["format"] >= 1, where, known, config["format"], CheckpointError)
    require(config["dtype"] in FLOATS, f"{where}: dtype", " or ".join(FLOATS), config["dtype"], CheckpointError)
    check_fields({"step": config["step"]}, {"step": int}, str(where))
    check_info(config["info"], where)
    return config


def check_info(info: Mapping[str, Any], where: object) -> None:
    """Raise the `CheckpointError` if what a run says of its data, training and metrics could not be what `fit` writes.

    Words that `fit` does not use are the user's own and may be anything.
    """
    for section, fields in INFO.items():
        if fields and section in info:
            value = info[section]
            require(isinstance(value, Mapping), f"{where}: info.{section}", "an object", value, CheckpointError)
            check_fields({k: v for k, v in value.items() if k in fields}, fields, f"{where}: info.{section}")


def check_state(state: Mapping[str, Any], step: int, memory: Mapping[str, Any], where: object) -> None:
    """Raise the `CheckpointError` unless the trainer's record is whole and as `fit` writes it.

    Arguments:
        state: of train_state.json.
        step: of config.json, which must be the same.
        memory: the types of the fields of the trainer's memory, by name.
        where: the file, for messages.
    """
    require(set(state) == set(STATE), where, f"exactly {', '.join(STATE)}", ", ".join(sorted(state)), CheckpointError)
    check_fields(state, STATE, str(where))
    for name in state["memory"]:  # an earlier version may have known fewer
        require(name in memory, f"{where}: memory", "a known field", f"{name!r}{nearest(name, memory)}", CheckpointError)
    check_fields(state["memory"], memory, f"{where}: memory")
    best = state["memory"].get("best")
    require(best is None or set(best) == {"step", "valid"}, f"{where}: memory.best", "step and valid", best, CheckpointError)
    check_fields(best or {}, {"step": int, "valid": float}, f"{where}: memory.best")
    require(state["step"] == step, f"{where}: step", f"{step}, as in config.json", state["step"], CheckpointError)
    require(state["rows"] <= step, f"{where}: rows", f"at most {step}, one a step", state["rows"], CheckpointError)


def check_fields(values: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> None:
    """Raise the `CheckpointError` unless every value has the type of its field, and counts and seconds are not negative."""
    for name, value in values.items():
        try:
            coerce(value, fields[name], f"{where}.{name}")
        except InputError as error:
            raise CheckpointError(str(error)) from error
        if name in COUNTS and value is not None:
            require(value >= 0, f"{where}.{name}", "0 or more", value, CheckpointError)
        if name in ("step", "steps") and value is not None:
            require(value <= MOST_STEPS, f"{where}.{name}", f"at most {MOST_STEPS}", value, CheckpointError)
        if name in ("seconds", "minutes") and value is not None:
            require(value >= 0, f"{where}.{name}", "0 or more", value, CheckpointError)


def build_model(
    config: Mapping[str, Any], weight_bytes: int, count: int, where: object, base: type[Any] = GenerativeModel
) -> Any:
    """The model that the config describes, its weights still random; the caller's random state is left untouched.

    Arguments:
        config: checked by `check_config`.
        weight_bytes, count: bytes and number of the tensors its file declares; constructing may not take much more.
        where: the file's name, for messages.
        base: what it has to be.

    Raises:
        CheckpointError: the config names what the code does not know, does not fit, or asks for more than its weights.
    """
    try:
        with seeded(0, "build"), bounded(SPARE_BYTES + 4 * weight_bytes, SPARE_CALLS + 20 * count, where):
            model = build(as_it_was(config["model"]), base, where="model")
    except CheckpointError:
        raise
    except Exception as error:  # whatever a constructor says to a stranger's arguments
        message = re.sub(r"^(?=\w)", f"{where}: ", one_line(error)) or f"{where}: {type(error).__name__}"
        plugins = config["info"].get("plugins")
        if plugins:
            named = ", ".join(map(str, plugins)) if isinstance(plugins, list) else plugins
            message += one_line(f"; the run was fitted with a plugin, {named}: name it with --plugin FILE.py", 200)
        raise CheckpointError(message) from error
    dtype = FLOATS[config["dtype"]]
    return model if model.dtype == dtype else model.to(dtype)


def as_it_was(model: dict[str, Any]) -> dict[str, Any]:
    """A model's config, with a name for the network where it is of the time when none was written.

    Attention on text; of autoregressive models, convolutions on images of one plane.
    """
    space, backbone = model.get("space"), model.get("backbone")
    kind = {"autoregressive": "causal_backbone", "discrete_diffusion": "symbol_backbone"}.get(str(model.get("class")))
    unnamed = backbone is None or (isinstance(backbone, dict) and backbone.get("network") in (None, "auto"))
    if kind is None or not unnamed or not isinstance(space, dict):
        return model
    shape = space.get("shape")
    plane = space.get("class") in ("pixels", "binary") and isinstance(shape, list) and len(shape[shape[:1] == [1] :]) == 2
    convolved = plane and kind == "causal_backbone" and model.get("order") != "any"
    if space.get("alphabet") is None and not convolved:
        return model
    network = "conv" if convolved else "transformer"
    return model | {"backbone": {"class": kind} | (backbone or {}) | {"network": network}}


@contextmanager
def bounded(size: int, calls: int, where: object) -> Iterator[_Bounded]:
    """Refuse, before memory is taken, tensors made inside the block beyond `size` bytes or `calls` calls."""
    with _Bounded(size, calls, where) as left:
        yield left


class _Bounded(TorchFunctionMode):  # a dispatch mode would see more, but importing what it needs takes a second
    def __init__(self, size: int, calls: int, where: object) -> None:
        super().__init__()
        self.size, self.calls, self.where = size, calls, where

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS:
            self.size, self.calls = self.size - _bytes_of(func, args, kwargs), self.calls - 1
            fits, got = self.size >= 0 and self.calls >= 0, f"a larger one, at {func.__name__}{args}"
            require(fits, self.where, "a model as large as its weights", got, CheckpointError)
        return func(*args, **kwargs)


def _bytes_of(func: Any, args: Any, kwargs: Mapping[str, Any]) -> int:
    """Bytes of the tensor that a call would make: its shape on the meta device, which for the three ranges loads a compiler."""
    if cells := CELLS.get((func, len(args))):
        return 8 * math.ceil(cells(*args))
    return func(*args, **{k: v for k, v in kwargs.items() if k not in ("out", "generator")} | {"device": "meta"}).nbytes

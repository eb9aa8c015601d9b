"""What the records beside the weights may hold: every value that the code goes by has its type and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from likeli.config import coerce
from likeli.errors import CheckpointError, InputError, nearest, require

MOST_STEPS = 10**10  # of training: a thousand a second for four months
COUNTS = ("step", "steps", "rows", "seed", "waiting", "skipped", "valid_rows")  # none of them below 0
Best = dict[str, float | int] | None
INFO: dict[str, dict[str, Any]] = {
    "data": {
        **dict.fromkeys(("name", "values", "fingerprint", "seal"), str),
        **dict.fromkeys(("source", "kind"), str | None),
        "labels": str | int | bool | list[int] | None,
        "categorical": list[str | int] | bool | None,
        "seed": int,
        "fractions": list[float],
        "rows": int,
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

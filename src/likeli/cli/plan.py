"""What is to be fitted, on what, for how long: flags over the config file over defaults; nothing here imports torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from likeli.cli.catalogue import Catalogue
from likeli.cli.options import model_spec, read_config, train_defaults, train_settings, with_defaults
from likeli.errors import InputError, require

NUMBER = (int, float)
TOP: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "kind": (str,),
    "labels": (str, bool),
    "model": (str, dict),
    "train": (dict,),
    "steps": (int,),
    "minutes": NUMBER,
    "seed": (int,),
    "out": (str,),
}


@dataclass(frozen=True)
class Plan:
    """A fit to be done.

    Arguments:
        data: a source for `load_data`.
        model: `{"class": family, option: value}`.
        kind, labels: how to read the source.
        train: training settings that were given.
        steps, minutes: the budget; neither for the trainer's default.
        seed: of the split, the weights, the batches.
        out: the run folder.
    """

    data: str | None
    model: dict[str, Any] | None
    kind: str | None = None
    labels: str | bool | None = None
    train: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    out: str | None = None

    def text(self, catalogue: Catalogue) -> str:
        """As a YAML file that `--config` reads back, with the defaults written out."""
        values: dict[str, Any] = {k: getattr(self, k) for k in TOP if getattr(self, k) is not None}
        if self.model is not None:
            values["model"] = with_defaults(catalogue, self.model)
            values["train"] = train_defaults(catalogue, self.model["class"], self.train)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()


def make_plan(args: argparse.Namespace, catalogue: Catalogue) -> Plan:
    """The plan that the command line and its config file describe.

    Raises:
        InputError: anything unknown, of the wrong type or contradictory.
    """
    config = read_config(args.config, {k: _is(t) for k, t in TOP.items()}) if args.config else {}
    given = {k: getattr(args, k) for k in TOP if k != "train" and getattr(args, k, None) is not None}
    merged: dict[str, Any] = {k: v for k, v in config.items() if v is not None} | given
    if ("steps" in given) != ("minutes" in given):  # a budget on the command line replaces the file's
        merged.pop("minutes" if "steps" in given else "steps", None)
    merged["model"] = _model(args, catalogue, config.get("model"))
    merged["train"] = train_settings(args.dotted["train"], config.get("train") or {})
    seed = merged.get("seed", 0)
    require(abs(seed) < 2**63, "seed", "a whole number below 2**63", seed)
    return Plan(**{"data": None, **merged})


def _model(args: argparse.Namespace, catalogue: Catalogue, config: Any) -> dict[str, Any] | None:
    own: Mapping[str, Any] = {"class": config} if isinstance(config, str) else config or {}
    name = args.model or own.get("class")
    if name is None:
        if args.dotted["model"] or own:
            raise InputError("model: expected a family to go with the --model.NAME options; see likeli list")
        return None
    require(isinstance(name, str), "model.class", "a family's name", name)
    same = own.get("class") in (None, name)  # another family on the command line makes the file's options void
    return model_spec(catalogue, name, args.dotted["model"], own if same else {})


def _is(types: tuple[type, ...]) -> Any:
    return lambda v: v is None or (isinstance(v, types) and (bool in types or not isinstance(v, bool)))

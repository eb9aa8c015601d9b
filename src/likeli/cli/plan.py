"""What is to be fitted, on what, for how long: flags over the config file over defaults; nothing here imports torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import yaml

from likeli.cli.catalogue import Catalogue
from likeli.cli.options import model_spec, read_config, text_defaults, train_defaults, train_settings, with_defaults
from likeli.errors import InputError, require

TEXT = ("context", "unit", "cut", "vocab", "unknown", "stride")


@dataclass(frozen=True)
class Plan:
    """A fit to be done.

    Arguments:
        data: a source for `load_data`.
        kind, labels, categorical, types, size, layer: how to read the source.
        context, unit, cut, vocab, unknown, stride: how to read a text.
        model: `{"class": family, option: value}`.
        train: training settings that were given.
        steps, minutes: the budget; neither for the trainer's default.
        seed: of the split, the weights, the batches.
        out: the run folder.
    """

    data: str | None = None
    kind: str | None = None
    labels: str | bool | None = None
    categorical: str | None = None
    types: str | dict[str, Any] | None = None
    size: int | None = None
    layer: str | None = None
    context: int | None = None
    unit: str | None = None
    cut: bool | None = None
    vocab: int | None = None
    unknown: str | None = None
    stride: int | None = None
    model: dict[str, Any] | None = None
    train: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    out: str | None = None

    def text(self, catalogue: Catalogue) -> str:
        """As a YAML file that `--config` reads back, with the defaults written out."""
        values = {k: v for k, v in vars(self).items() if v is not None}
        if self.model is not None:
            values["model"] = with_defaults(catalogue, self.model)
            family = self.model["class"]
            other = text_defaults(catalogue, family).keys() - self.train.keys()  # left to the data, which are not read here
            values["train"] = {k: v for k, v in train_defaults(catalogue, family, self.train).items() if k not in other}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()


TOP = get_type_hints(Plan) | {"model": str | dict | None, "train": dict | None, "seed": int | None}


def make_plan(args: argparse.Namespace, catalogue: Catalogue) -> Plan:
    """The plan that the command line and its config file describe.

    Raises:
        InputError: anything unknown, of the wrong type or contradictory.
    """
    config = read_config(args.config, TOP) if args.config else {}
    given = {k: v for k, v in vars(args).items() if k in TOP and v is not None}
    merged = {k: v for k, v in config.items() if v is not None} | given
    if ("steps" in given) != ("minutes" in given):  # a budget on the command line replaces the file's
        merged.pop("minutes" if "steps" in given else "steps", None)
    merged["model"] = _model(args, catalogue, config.get("model"))
    merged["train"] = train_settings(args.dotted["train"], config.get("train") or {})
    return Plan(**merged)


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

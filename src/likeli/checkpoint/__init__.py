"""Durable, verified checkpoints: safetensors and JSON, never code.

A run folder holds generations, each a complete model folder that was renamed into place, and the training history:

    x/checkpoints/00000007/{config.json, model.safetensors, README.md, manifest.json, train_state.json, train_state.safetensors}
    x/history.jsonl

Whatever happens while the next generation is written, the last one loads.  Loading believes nothing: only regular files below
the folder, sizes before memory, sha256 of the very bytes that become tensors, registered classes only, strict names, shapes,
types and finiteness.  A checksum finds damage, not forgery: who can rewrite the manifest can change the weights, but cannot run
code.
"""

from likeli.checkpoint.disk import lock
from likeli.checkpoint.folder import (
    annotate,
    from_pretrained,
    inspect,
    load,
    load_part,
    prepare_folder,
    read,
    save,
    save_part,
    save_pretrained,
)
from likeli.checkpoint.generation import Checkpoint, check_savable
from likeli.checkpoint.log import append_history, read_history, truncate_history
from likeli.checkpoint.seal import is_sealed, sealed

__all__ = [
    "Checkpoint",
    "annotate",
    "append_history",
    "check_savable",
    "from_pretrained",
    "inspect",
    "is_sealed",
    "load",
    "load_part",
    "lock",
    "prepare_folder",
    "read",
    "read_history",
    "save",
    "save_part",
    "save_pretrained",
    "sealed",
    "truncate_history",
]

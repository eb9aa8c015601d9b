"""A model as plain values and bytes in memory, for whoever keeps objects by other means than a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from likeli.checkpoint import strict_json as strict
from likeli.checkpoint.build import build_model, check_config, config_of
from likeli.checkpoint.tensors import check_entries, check_finite, deserialise, non_finite, serialise
from likeli.contract import GenerativeModel
from likeli.errors import CheckpointError, require

CONFIG_LIMIT = 1 << 20


@dataclass(frozen=True)
class Packed:
    """What a run folder holds of a model: its config.json and its safetensors file, and never code.

    Arguments:
        config: JSON text.
        weights: bytes in the safetensors format.
    """

    config: bytes
    weights: bytes

    @classmethod
    def of(cls, model: GenerativeModel) -> Packed:
        """The model, its weights copied.

        Raises:
            InputError: weights that are not finite, or that the format cannot hold.
        """
        state, where = model.state_dict(), model.kind()
        check_finite(state, where)
        config = bytes(strict.dumps(config_of(model, 0, {}), where, CONFIG_LIMIT))
        return cls(config, b"".join(bytes(chunk) for chunk in serialise(state, where)))

    def model(self) -> GenerativeModel:
        """The model built anew, in evaluation mode.

        Raises:
            CheckpointError: the bytes are not those of `of`.
        """
        where = "a packed model"
        config: dict[str, Any] = check_config(strict.loads(self.config, where), where)
        entries, tensors = deserialise(self.weights, where)
        model = build_model(config, len(self.weights), len(entries), where)
        check_entries(entries, model.state_dict(), where)
        bad = next(non_finite(tensors), None)
        require(bad is None, f"{where}: {bad}", "finite numbers", "NaN or infinity", CheckpointError)
        model.load_state_dict(tensors)
        return model.eval()

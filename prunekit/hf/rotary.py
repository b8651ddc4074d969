"""Rotary positions closed up after dropping: each token moves back by what was dropped before it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from prunekit.errors import UnsupportedModel
from prunekit.hf.decoder import Decoder

_STATEFUL = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    """Makes position embeddings as the decoder does, for positions of our choice.

    Attributes:
        module: The decoder's rotary embedding.
        layer_types: For each layer the name its embedding goes by, where layers differ in it.
    """

    module: Any
    layer_types: tuple[str, ...] | None

    @classmethod
    def of(cls, decoder: Decoder) -> Rotary:
        """The rotary embedding of a decoder.

        Raises:
            UnsupportedModel: Its positions cannot be closed up.
        """
        name = type(decoder.module).__name__
        module = getattr(decoder.module, "rotary_emb", None)
        if module is None:
            raise UnsupportedModel(f"{name} has no `rotary_emb`; {_KEEP}")
        for rope in _ropes(decoder.module.config):
            if "mrope_section" in rope:
                raise UnsupportedModel(
                    f"{name} gives visual tokens positions in time, height and width, which cannot be "
                    f"closed up into one line; {_KEEP}"
                )
            if rope.get("rope_type") in _STATEFUL:
                raise UnsupportedModel(
                    f"{name} changes its {rope['rope_type']} embedding with the length of the sequence; "
                    f"{_KEEP}"
                )
        typed = "layer_type" in inspect.signature(type(module).forward).parameters
        return cls(module, tuple(decoder.module.config.layer_types) if typed else None)

    def at(self, layer: int, like: Tensor, positions: Int[Tensor, "batch queries"]) -> Any:
        """The embedding of these positions, in the dtype and on the device of `like`."""
        if self.layer_types is None:
            return self.module(like, positions)
        return self.module(like, positions, self.layer_types[layer])

    def kind(self, layer: int) -> str | None:
        """What layers with the same embedding have in common."""
        return None if self.layer_types is None else self.layer_types[layer]


_KEEP = "use positions='keep'."


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """The rotary settings of a config: one, or one for each type of layer."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [found, *(part for part in found.values() if isinstance(part, Mapping))]

"""A cache that can be read and does not grow: for seeing a layer's attention before the layer runs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

New = Float[Tensor, "batch heads new dim"]
All = Float[Tensor, "batch heads all dim"]


class Glance:
    """Answers `update` as the cache would, and leaves the cache as it is."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The length that the cache tells."""
        return self._cache.get_seq_length(layer_idx)

    def update(
        self, key_states: New, value_states: New, layer_idx: int, *_rest: Any, **_more: Any
    ) -> tuple[All, All]:
        """The held keys and values of a layer with the new ones behind them."""
        layers = self._cache.layers
        held: Any = layers[layer_idx] if layer_idx < len(layers) else None
        if held is None or not held.is_initialized or not held.keys.numel():
            return key_states, value_states
        shown = slice(held.keys.shape[-2] - handed_out(held), None)
        return (
            torch.cat([held.keys[:, :, shown], key_states], -2),
            torch.cat([held.values[:, :, shown], value_states], -2),
        )


def handed_out(held: Any) -> int:
    """How many of the keys that a layer of a cache holds it gives to new queries.

    All of them, but where it records a past to be cropped back to: then no more than its window.
    """
    count = held.keys.shape[-2]
    return min(count, held.sliding_window - 1) if getattr(held, "record_past", False) else count

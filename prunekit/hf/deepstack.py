"""DeepStack (Qwen3-VL) for a pruned sequence: image features added between the first layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from prunekit.hf.slots import Slots, gather

METHOD = "_deepstack_process"
"""The decoder's method that adds the features of every visual token of the batch, in order."""


def thinned(
    add: Callable[..., Tensor],
    slots: Slots,
    states: Float[Tensor, "batch slots dim"],
    visual: Bool[Tensor, "batch length"],
    features: Float[Tensor, "visual dim"],
    *rest: Any,
) -> Float[Tensor, "batch slots dim"]:
    """Adds to the tokens that are left the features that are theirs.

    Args:
        add: The decoder's own method.
        slots: Which tokens are left.
        states: Their hidden states.
        visual: The visual tokens of the unpruned sequence.
        features: One row for each of them, in order.
        *rest: Further arguments of `add`.
    """
    left = gather(visual, slots.source, -1) & slots.valid.to(visual.device)
    ordinal = (visual.flatten().long().cumsum(0) - 1).view(visual.shape)
    theirs = gather(ordinal, slots.source, -1)[left]
    return add(states, left, features[theirs.to(features.device)], *rest)

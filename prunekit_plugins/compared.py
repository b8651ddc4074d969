"""What tokens are compared by: their features, or the keys that the vision encoder has for them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from prunekit import Signal, TokenBatch, VisionKeys

By: TypeAlias = Literal["features", "keys", "mean_keys"]

WHAT = (
    "What tokens are compared by: features, the vision encoder's keys of all heads, or their mean over heads."
)
LAYER = "The layer of the vision encoder whose keys are meant; negative ones count from the end."


def signals_of(by: By, layer: int) -> frozenset[Signal]:
    """What must be captured to compare tokens so."""
    return frozenset[Signal]() if by == "features" else frozenset[Signal]({VisionKeys(layer)})


def vectors_of(tokens: TokenBatch, by: By, layer: int) -> Float[Tensor, "batch tokens dim"]:
    """A vector for each token, in float32."""
    if by == "features":
        return tokens.features.float()
    keys = tokens.signal(VisionKeys(layer)).float()
    return (keys.mean(1) if by == "mean_keys" else keys.flatten(1, 2)).mT

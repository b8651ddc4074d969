"""Bias as padding: a patch that is mostly padding around the image is worth nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Bias, BiasEstimator, PaddedShare, Signal, Stage, TokenBatch, hookimpl

KNOWN = 1e-6
"""How well a share is known: as little above the threshold is at it."""


class Padding(BiasEstimator):
    """Weighs a token by 0 where more than a share of its patch is padding, by 1 elsewhere.

    From arXiv:2508.17807, with a threshold of 0.5 in front of FastV and 0.01 in front of PyramidDrop.
    """

    use: Literal["padding"] = "padding"
    threshold: float = Field(
        0.5, ge=0, le=1, description="The largest padded share at which a patch still counts."
    )

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({PaddedShare()})

    def __call__(self, tokens: TokenBatch) -> Bias:
        share = tokens.signal(PaddedShare())
        return Bias((share <= self.threshold + KNOWN).float(), "weight")


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Padding]

"""Importance as the length of a token's feature vector, or of its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from prunekit import ImportanceScorer, Keys, Scores, Signal, Stage, TokenBatch, hookimpl


class FeatureNorm(ImportanceScorer):
    """Scores a token by the norm of its features, or of its key: a score without any text.

    The pivots of DART (arXiv:2502.11494) have the longest keys, heads and channels together, by `order: 1`.

    Returns:
        Scores of 0 and more, float32, without unit.
    """

    use: Literal["feature_norm"] = "feature_norm"
    of: Literal["features", "keys"] = Field(
        "features", description="Features, or the keys of the layer before the pruning layer."
    )
    order: Literal[1, 2] = Field(2, description="1: sum of absolute values; 2: Euclidean length.")

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Keys()}) if self.of == "keys" else frozenset()

    def __call__(self, tokens: TokenBatch) -> Scores:
        features = tokens.features if self.of == "features" else tokens.signal(Keys()).flatten(1, 2).mT
        # Divided by the largest entry first, so that squares neither overflow nor vanish.
        largest = features.amax(-1, keepdim=True).maximum(-features.amin(-1, keepdim=True)).float()
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1)
        return ((features / scale).norm(self.order, dim=-1, keepdim=True) * scale).squeeze(-1).float()


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [FeatureNorm]

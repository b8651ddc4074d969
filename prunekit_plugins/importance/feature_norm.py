"""Importance as the length of a token's feature vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from prunekit import ImportanceScorer, Scores, Stage, TokenBatch, hookimpl


class FeatureNorm(ImportanceScorer):
    """Scores a token by the norm of its features: a score without any text.

    Returns:
        Scores of 0 and more, float32, without unit.
    """

    use: Literal["feature_norm"] = "feature_norm"
    order: Literal[1, 2] = Field(2, description="1: sum of absolute values; 2: Euclidean length.")

    def __call__(self, tokens: TokenBatch) -> Scores:
        features = tokens.features
        # Divided by the largest entry first, so that squares neither overflow nor vanish.
        largest = features.amax(-1, keepdim=True).maximum(-features.amin(-1, keepdim=True)).float()
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1)
        return ((features / scale).norm(self.order, dim=-1, keepdim=True) * scale).squeeze(-1).float()


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [FeatureNorm]

"""Importance of a channel as the length of its filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import ImportanceScorer, Scores, Stage, TokenBatch, hookimpl
from prunekit_plugins.importance.feature_norm import FeatureNorm


class Magnitude(ImportanceScorer):
    """Scores a channel by the norm of its filter: `feature_norm`, by the name it goes by for weights.

    With `order: 1` the criterion of Li et al. (arXiv:1608.08710). Where several layers write a channel, their
    filters count as one. Unlike `pro_score` it needs no gradients, and depends on how weights are scaled.

    Returns:
        Scores of 0 and more, float32, without unit.
    """

    use: Literal["magnitude"] = "magnitude"
    order: Literal[1, 2] = Field(2, description="1: sum of absolute values; 2: Euclidean length.")

    def __call__(self, tokens: TokenBatch) -> Scores:
        return FeatureNorm(of="features", order=self.order)(tokens)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Magnitude]

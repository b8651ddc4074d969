"""Importance as the attention that a token receives in the vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import ImportanceScorer, Scores, Signal, Stage, TokenBatch, hookimpl
from prunekit import VisionAttention as Captured


class VisionAttention(ImportanceScorer):
    """Scores a token by the attention that it receives in the vision tower, before any text is read.

    With its defaults the score of FasterVLM (arXiv:2412.01818): the class token's attention in the layer
    before the last, mean over heads.

    Returns:
        Scores in [0, 1], float32.
    """

    use: Literal["vision_attention"] = "vision_attention"
    layer: int = Field(-2, description="The layer of the vision tower, counted from its end where negative.")
    query: Literal["auto", "cls", "mean"] = Field(
        "auto",
        description="Who pays: the class token, all queries on average, or the first where there is one.",
    )

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({self._captured})

    def __call__(self, tokens: TokenBatch) -> Scores:
        return tokens.signal(self._captured).float().mean(1)

    @property
    def _captured(self) -> Captured:
        return Captured(self.layer, self.query)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [VisionAttention]

"""Importance as the attention that a token gets in the vision encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import ImportanceScorer, Scores, Signal, Stage, TokenBatch, hookimpl
from prunekit import VisionAttention as Captured


class VisionAttention(ImportanceScorer):
    """Scores a token by the softmax attention it gets in the vision encoder, whatever the prompt.

    With its defaults the score of VisionZip (arXiv:2412.04467) and FasterVLM (arXiv:2412.01818).

    Returns:
        Scores in [0, 1], float32; with mean heads, those of a sample sum to at most 1.
    """

    use: Literal["vision_attention"] = "vision_attention"
    query: Literal["auto", "cls", "mean"] = Field(
        "auto", description="Who pays: the class token, the mean of all, or the former where there is one."
    )
    heads: Literal["mean", "max"] = Field("mean", description="How attention heads become one.")
    layer: int = Field(-2, description="The layer of the vision encoder; negative ones count from the end.")

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({self._captured})

    def __call__(self, tokens: TokenBatch) -> Scores:
        attention = tokens.signal(self._captured).float()
        return attention.mean(1) if self.heads == "mean" else attention.amax(1)

    @property
    def _captured(self) -> Captured:
        return Captured(layer=self.layer, query=self.query)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [VisionAttention]

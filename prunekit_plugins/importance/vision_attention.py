"""Importance as the attention that the vision encoder pays to a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import ImportanceScorer, Scores, Signal, Stage, TokenBatch, hookimpl
from prunekit import VisionAttention as Captured


class VisionAttention(ImportanceScorer):
    """Scores a token by the attention inside the vision encoder: a score without any text.

    With its defaults the score of FasterVLM and VisPruner (arXiv:2412.01818): class token, mean over heads,
    penultimate layer. VisionZip (arXiv:2412.04467) has the sum over heads, and for encoders without a class
    token the mean attention that a patch receives, as here. Where a token is made of several patches, it has
    their mean; a newline has 0.

    Returns:
        Scores in [0, 1], float32; with summed heads, up to their number.
    """

    use: Literal["vision_attention"] = "vision_attention"
    query: Literal["auto", "cls", "mean"] = Field(
        "auto",
        description="Who pays: the class token, the mean of all patches, or the first where there is one.",
    )
    heads: Literal["mean", "max", "sum"] = Field("mean", description="How attention heads become one.")
    layer: int = Field(
        -2, description="The layer of the vision encoder; negative ones count from its end, as in lists."
    )

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({self._captured})

    def __call__(self, tokens: TokenBatch) -> Scores:
        attention = tokens.signal(self._captured).float()
        if self.heads == "max":
            return attention.amax(1)
        return attention.mean(1) if self.heads == "mean" else attention.sum(1)

    @property
    def _captured(self) -> Captured:
        return Captured(layer=self.layer, query=self.query)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [VisionAttention]

"""Importance as the attention that text pays to a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import ImportanceScorer, Scores, Signal, Stage, TokenBatch, hookimpl
from prunekit import TextAttention as Captured


class TextAttention(ImportanceScorer):
    """Scores a token by the softmax attention that the prompt pays to it.

    With its defaults the score of FastV (arXiv:2403.06764) and the A_ori of D²Pruner (arXiv:2512.19443):
    last prompt token, mean over heads, the layer before the pruning layer.

    Returns:
        Scores in [0, 1], float32; with mean heads, those of a sample sum to at most 1.
    """

    use: Literal["text_attention"] = "text_attention"
    query: Literal["last", "mean"] = Field(
        "last", description="Who pays: the last prompt token, or the mean of the text after the image."
    )
    heads: Literal["mean", "max"] = Field("mean", description="How attention heads become one.")
    layer: Literal["previous", "same"] = Field(
        "previous", description="The layer before the pruning layer, or the pruning layer itself."
    )

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({self._captured})

    def __call__(self, tokens: TokenBatch) -> Scores:
        attention = tokens.signal(self._captured).float()
        return attention.mean(1) if self.heads == "mean" else attention.amax(1)

    @property
    def _captured(self) -> Captured:
        return Captured(query=self.query, layer=self.layer)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [TextAttention]

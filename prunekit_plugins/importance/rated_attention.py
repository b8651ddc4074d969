"""Importance as the attention of those words alone that have to do with the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import (
    ImportanceScorer,
    InputFeatures,
    Scores,
    Signal,
    Stage,
    TextFeatures,
    TextRows,
    TokenBatch,
    hookimpl,
)
from prunekit.kernels.raters import raters


class RatedAttention(ImportanceScorer):
    """Scores a token by the softmax attention that the relevant text tokens pay to it, mean over heads.

    The score of SparseVLM (arXiv:2410.04417). A text token rates if its softmax over the text of its product
    with a visual token, mean over the visual tokens, is above the mean; where none is, all rate, while the
    official code fails.

    Returns:
        Scores in [0, 1], float32; those of a sample sum to at most 1.
    """

    use: Literal["rated_attention"] = "rated_attention"
    layer: Literal["previous", "same"] = Field(
        "previous", description="The layer before the pruning layer, or the pruning layer itself."
    )

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({TextRows(self.layer), TextFeatures("input"), InputFeatures()})

    def __call__(self, tokens: TokenBatch) -> Scores:
        text = tokens.signal(TextFeatures("input"))
        visual = tokens.signal(InputFeatures()).mT
        rating = raters(visual, text, tokens.present, (text != 0).any(-1))
        attention = tokens.signal(TextRows(self.layer)).float().mean(1)
        paid = attention.masked_fill(~rating[..., None], 0).sum(1)
        return paid / rating.sum(-1, keepdim=True).clamp(min=1)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [RatedAttention]

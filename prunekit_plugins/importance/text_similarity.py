"""Importance as likeness to the question: how much a token's features are those of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from prunekit import (
    ImportanceScorer,
    JointFeatures,
    JointTexts,
    Scores,
    Signal,
    Stage,
    TextFeatures,
    TokenBatch,
    hookimpl,
)
from prunekit.kernels.cosine import cosine, unit


class TextSimilarity(ImportanceScorer):
    """Scores a token by the cosine of its features with those of the question.

    CDPruner (arXiv:2506.10967) takes the tokens least like the prompts in the space of a contrastive model,
    where patches lie opposite to the words for them: `space: joint`, `prefer: far`. ID-Selection
    (arXiv:2604.05601) compares with the mean of the text inside the language model: `texts: mean`.

    Returns:
        Scores in [-1, 1], float32.
    """

    use: Literal["text_similarity"] = "text_similarity"
    space: Literal["model", "joint"] = Field(
        "model",
        description="Where they are compared: in the model at the place of pruning, or in a space that "
        "pictures and words share.",
    )
    texts: Literal["each", "mean"] = Field(
        "each", description="The mean of the cosines with each text token, or the cosine with their mean."
    )
    prefer: Literal["near", "far"] = Field(
        "near", description="Whether likeness or unlikeness is worth more."
    )
    without_text: ImportanceScorer | None = Field(
        None, description="Who scores the samples that have no text; by default all their tokens are alike."
    )

    @property
    def needs(self) -> frozenset[Signal]:
        joint = frozenset[Signal]({JointFeatures(), JointTexts()})
        return super().needs | (joint if self.space == "joint" else {TextFeatures()})

    def __call__(self, tokens: TokenBatch) -> Scores:
        raw = tokens.signal(TextFeatures() if self.space == "model" else JointTexts()).float()
        texts = unit(raw)
        real = (texts != 0).any(-1)
        features = tokens.features if self.space == "model" else tokens.signal(JointFeatures()).mT
        if self.texts == "mean":
            texts = unit(raw.masked_fill(~real[..., None], 0).mean(1, keepdim=True))
        scores = cosine(unit(features), texts).sum(-1)
        if self.texts == "each":
            scores = scores / real.sum(-1, keepdim=True).clamp(min=1)
        scores = scores if self.prefer == "near" else -scores
        if self.without_text is None:
            return scores
        return torch.where(real.any(-1, keepdim=True), scores, self.without_text(tokens).float())


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [TextSimilarity]

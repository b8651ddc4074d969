"""As unlike the pivots as can be: tokens that say what the best of the kept do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from prunekit import (
    Candidates,
    Kept,
    Pairs,
    Room,
    Selector,
    Signal,
    Stage,
    TextFeatures,
    TextKeys,
    TokenBatch,
    hookimpl,
)
from prunekit.kernels.cosine import unit
from prunekit.kernels.known import Pick
from prunekit.kernels.ranking import descending, packed_key
from prunekit.kernels.unlike import least_like


class Unlike(Selector):
    """Takes for each pivot in turn the tokens least like it, an equal part of the room for each.

    The second step of DART (arXiv:2502.11494). Pivots are the best by score of what is kept, then the text
    tokens with the longest keys, in that order, where the official code visits them as a hash set happens to
    have them, and its rounding misses the count. A sample without text has only the first, and without any
    pivot nothing is taken.
    """

    use: Literal["unlike"] = "unlike"
    images: int = Field(4, ge=0, description="How many of the kept tokens are pivots.")
    texts: int = Field(4, ge=0, description="How many text tokens are pivots.")

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({TextFeatures(), TextKeys()}) if self.texts else frozenset()

    @property
    def compares(self) -> Pairs:
        return "kept"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens, vectors = candidates.tokens, unit(candidates.tokens.features)
        places, real = _first(packed_key(candidates.scores, kept), kept, self.images)
        pivots = Pick(places)(vectors)
        if self.texts:
            places, there = self.text_pivots(tokens)
            texts = Pick(places)(unit(tokens.signal(TextFeatures())))
            pivots, real = torch.cat([pivots, texts], 1), torch.cat([real, there], 1)
        return kept | least_like(vectors, pivots, real, tokens.present & ~kept, room)

    def text_pivots(
        self, tokens: TokenBatch
    ) -> tuple[Int[Tensor, "batch texts"], Bool[Tensor, "batch texts"]]:
        """The text tokens of the longest keys (L1), longest first, and which of them there are."""
        there = (unit(tokens.signal(TextFeatures())) != 0).any(-1)
        length = tokens.signal(TextKeys()).float().abs().sum(-1)
        return _first(packed_key(length, there), there, self.texts)


def _first(
    key: Int[Tensor, "batch some"], there: Bool[Tensor, "batch some"], count: int
) -> tuple[Int[Tensor, "batch count"], Bool[Tensor, "batch count"]]:
    """The indices of the highest keys, and which of them are of something that is there."""
    places = descending(key)[:, :count]
    return places, there.gather(-1, places)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Unlike]

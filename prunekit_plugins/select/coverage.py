"""Nothing left out: tokens that stand for those that are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, hookimpl
from prunekit.kernels.coverage import coverage
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.scaling import of_largest


class Coverage(Selector):
    """Takes the token that covers most of what is not covered yet, times its score to the power of alpha.

    The selector of SCOPE (NeurIPS 2025). A token is covered as far as its largest cosine to what is kept, at
    least 0. Scores below 0 count as 0. Ties fall to the lowest index, and NaN ranks last.
    """

    use: Literal["coverage"] = "coverage"
    alpha: float = Field(1.0, ge=0, allow_inf_nan=False, description="How much scores count beside coverage.")

    @property
    def compares(self) -> Pairs:
        return "all"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens = candidates.tokens
        saliency = of_largest(candidates.scores, tokens.present).clamp(min=0)
        return kept | coverage(
            Likeness.of(tokens.features),
            Task(kept, tokens.present & ~kept, room, candidates.most, candidates.engine),
            weight=saliency.pow(self.alpha).masked_fill(saliency.isnan(), float("nan")),
        )


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Coverage]

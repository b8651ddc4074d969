"""Those who stand out: scores above what the quartiles would let one expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from prunekit import Candidates, Kept, Room, Selector, Stage, hookimpl
from prunekit.kernels.ranking import best
from prunekit.kernels.scaling import SCORE_LIMIT


class Outliers(Selector):
    """Takes the tokens whose scores lie above Q3 + factor · (Q3 - Q1), the best first if there are too many.

    The selector of PruMerge (arXiv:2403.15388), where the outliers say how many tokens are kept. Here the
    budget says that: `fill` is what happens where there are fewer, and later selectors may go on. Quartiles
    are those of all present tokens of the sample, interpolated linearly; NaN is left out of them. Ties fall
    to the lowest index.
    """

    use: Literal["outliers"] = "outliers"
    factor: float = Field(1.5, ge=0, description="How many times the range of the middle half above it.")
    fill: Literal["none", "score"] = Field(
        "none", description="Whether the room is filled up with the best by score."
    )
    leave: int = Field(0, ge=0, description="How much of the room is left to later selectors.")

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        scores, present = candidates.scores, candidates.tokens.present
        free, room = present & ~kept, (room - self.leave).clamp(min=0)
        if self.fill == "none":
            free = free & _outlying(scores, present, self.factor)
        return kept | best(scores, free, room)


def _outlying(
    scores: Float[Tensor, "batch tokens"], present: Bool[Tensor, "batch tokens"], factor: float
) -> Bool[Tensor, "batch tokens"]:
    """Which scores are outliers, upwards."""
    values = scores.float().clamp(-SCORE_LIMIT, SCORE_LIMIT)
    counted = present & ~values.isnan()
    ascending = values.masked_fill(~counted, torch.inf).sort(-1).values
    low, high = (_quantile(ascending, counted.sum(-1, keepdim=True), quarter) for quarter in (1, 3))
    return counted & (values > high + factor * (high - low))


def _quantile(
    ascending: Float[Tensor, "batch tokens"], count: Tensor, quarters: int
) -> Float[Tensor, "batch one"]:
    """The value below which so many quarters of the first `count` lie."""
    if not ascending.shape[-1]:
        return ascending.new_zeros(len(ascending), 1)
    last = (count - 1).clamp(min=0)
    below, part = last * quarters // 4, (last * quarters % 4) / 4
    start, end = ascending.gather(-1, below), ascending.gather(-1, (below + 1).minimum(last))
    return start + (end - start) * part


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Outliers]

"""The best, whose look-alikes fade: suppression by degrees instead of by edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, hookimpl
from prunekit.kernels.fading import fading
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.scaling import below_one


class Fade(Selector):
    """Takes the best token, lowers the scores of those like it, and goes on with what is best then.

    The selector of ID-Selection (arXiv:2604.05601): with scores scaled to [0, 1) within the sample, a token t
    that is taken lowers every other by s_t · exp(-sharpness · (1 - cosine)²), never below 0. What earlier
    selectors kept does so first. Ties fall to the lowest index, and NaN ranks last.
    """

    use: Literal["fade"] = "fade"
    sharpness: float = Field(
        20.0, ge=0, allow_inf_nan=False, description="How alike tokens must be to lower each other's scores."
    )

    @property
    def compares(self) -> Pairs:
        return "kept"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens = candidates.tokens
        return kept | fading(
            Likeness.of(tokens.features),
            Task(kept, tokens.present & ~kept, room, candidates.most, candidates.engine),
            worth=below_one(candidates.scores, tokens.present),
            sharpness=self.sharpness,
        )


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Fade]

"""The plainest selector: the best by score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Room, Selector, Stage, hookimpl
from prunekit.budget import share_of
from prunekit.kernels.ranking import best


class TopK(Selector):
    """Keeps the tokens with the highest scores, ties by lowest index; uses the order of scores alone.

    With `share` it takes floor(share * room): the pivots of D²Pruner (arXiv:2512.19443) are the best 0.7.
    With `most` no more than that: the pivots of DART (arXiv:2502.11494) are the best four.
    """

    use: Literal["top_k"] = "top_k"
    share: float = Field(1.0, gt=0, le=1, description="The share of the room to use, rounded down.")
    most: int | None = Field(None, ge=1, description="How many to take at most; by default no limit.")

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        eligible = candidates.tokens.present & ~kept
        wanted = share_of(room, self.share)
        return kept | best(candidates.scores, eligible, wanted.clamp(max=self.most) if self.most else wanted)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [TopK]

"""Filling up: what is left of the room after more particular selectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, hookimpl
from prunekit.kernels.farthest import farthest
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.ranking import best


class Fill(Selector):
    """Uses all the room left: with the best by score, or with the tokens least like what is kept.

    The last step of D²Pruner (arXiv:2512.19443), where the independent set runs dry. The farthest token is
    the one whose largest cosine to the kept is smallest, one after another; ties by lowest index.
    """

    use: Literal["fill"] = "fill"
    by: Literal["score", "farthest"] = Field("score", description="What to fill up with.")

    @property
    def compares(self) -> Pairs:
        return "none" if self.by == "score" else "kept"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        eligible = candidates.tokens.present & ~kept
        if self.by == "score":
            return kept | best(candidates.scores, eligible, room)
        task = Task(kept, eligible, room, candidates.most, candidates.engine)
        return kept | farthest(Likeness.of(candidates.tokens.features), task, first=candidates.scores)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Fill]

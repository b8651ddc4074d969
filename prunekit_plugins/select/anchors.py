"""The best, and what surrounds them: a few anchors with their neighbours on the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from prunekit import Candidates, ImportanceScorer, Kept, Room, Selector, Stage, Where, hookimpl
from prunekit.kernels.neighbours import cell_beside, raster_beside
from prunekit.kernels.ranking import NEVER, descending, packed_key, take
from prunekit.kernels.scaling import widest

AROUND = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""The neighbours of an anchor: rows and columns further."""

GROUP = 1 + len(AROUND)


class Anchors(Selector):
    """Takes the best tokens, each with its four neighbours, in about a share of the room.

    The first step of HiPrune (arXiv:2508.00553): round(room · share / 5) anchors, half to even. One anchor
    after another is taken with its neighbours, left, right, above, below, until the room is used, where the
    official code fails if there are more of them than room. What is not used is left to the next selector.
    """

    use: Literal["anchors"] = "anchors"
    share: float = Field(
        0.1, gt=0, le=1, description="The share of the room that anchors and neighbours would use."
    )
    by: ImportanceScorer | None = Field(
        None, description="What the best are chosen by; the scores by default."
    )
    edges: Literal["cut", "wrap"] = Field(
        "cut",
        description="Beyond the end of a row there is none, or the neighbour is the next in raster order, "
        "and at the ends of the plane the token at the end, as in the official code.",
    )

    @property
    def where(self) -> frozenset[Where]:
        return super().where | frozenset[Where]({"cell"})

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens, free = candidates.tokens, candidates.tokens.present & ~kept
        scores = candidates.scores if self.by is None else self.by(tokens)
        turn = descending(packed_key(scores, free)).argsort(-1)
        wanted = torch.round(room.to(widest(room.device)) * self.share / GROUP).long()
        anchor = free & (turn < wanted[:, None])
        never = GROUP * turn.shape[-1]
        place = torch.where(anchor, GROUP * turn, never)
        for step, (rows, columns) in enumerate(AROUND, 1):
            there = anchor
            if self.edges == "wrap":
                beside = raster_beside(tokens.positions, tokens.present, rows, columns)
            else:
                beside, known = cell_beside(tokens.positions, tokens.present, rows, columns)
                there = anchor & known
            turned = torch.where(there, GROUP * turn + step, never)
            place = place.scatter_reduce(-1, beside, turned, "amin")
        return kept | take((-place).masked_fill(~free | (place == never), NEVER), room)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Anchors]

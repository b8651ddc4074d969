"""As different as can be: always the token farthest from all that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, hookimpl
from prunekit.kernels.farthest import farthest
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness


class MaxMin(Selector):
    """Takes the token whose largest cosine to what is kept is smallest, one after another.

    The selector of DivPrune (arXiv:2503.02175). Where nothing is kept yet, it starts with the token whose
    nearest other is farthest, or with the best by score; beyond that scores do not matter. Ties fall to the
    lowest index.
    """

    use: Literal["max_min"] = "max_min"
    start: Literal["farthest", "score"] = Field(
        "farthest", description="The first token, where none is kept: the loneliest, or the best by score."
    )

    @property
    def compares(self) -> Pairs:
        return "all" if self.start == "farthest" else "kept"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens = candidates.tokens
        return kept | farthest(
            Likeness.of(tokens.features),
            Task(kept, tokens.present & ~kept, room, candidates.most, candidates.engine),
            first=candidates.scores if self.start == "score" else None,
        )


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [MaxMin]

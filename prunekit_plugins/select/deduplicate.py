"""Without duplicates: tokens are dropped for looking like another, until the rest fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, hookimpl
from prunekit.kernels.duplicates import without_duplicates
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.ranking import packed_key


class Deduplicate(Selector):
    """Drops the tokens most like another, a few at a time, until as many are left as there is room for.

    The second half of VisPruner (arXiv:2412.01818). Tokens queue by falling score. Those at even places are
    compared with those at odd ones, the few with the largest cosine to one of them are dropped, and the even
    ones left queue by falling cosine before the odd ones. Takes odd numbers, where the official code fails.
    Which tokens are left hangs on every digit of the cosines where many are dropped.
    """

    use: Literal["deduplicate"] = "deduplicate"
    at_once: int = Field(8, ge=1, description="How many tokens to drop before queueing anew.")

    @property
    def compares(self) -> Pairs:
        return "all"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens = candidates.tokens
        free = tokens.present & ~kept
        return kept | without_duplicates(
            Likeness.of(tokens.features),
            Task(kept, free, room, candidates.most, candidates.engine),
            packed_key(candidates.scores, free),
            self.at_once,
        )


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Deduplicate]

"""Spreading out: a maximal independent set, so that no two tokens kept by it are too alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Room, Selector, Stage, hookimpl
from prunekit.kernels.mis import greedy_mis
from prunekit.kernels.ranking import packed_key


class MIS(Selector):
    """Walks the tokens by falling score, takes one, drops its neighbours, until the room is used.

    The second half of D²Pruner (arXiv:2512.19443). The set is the greedy, lexicographically first maximal
    independent set among the tokens not kept yet; it may run dry before the room is used. Uses the order of
    scores alone, ties by lowest index.
    """

    use: Literal["mis"] = "mis"
    around_kept: Literal["ignore", "suppress"] = Field(
        "ignore",
        description="Whether tokens kept by earlier selectors suppress their neighbours too.",
    )

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        key = packed_key(candidates.scores, candidates.tokens.present & ~kept)
        around = kept if self.around_kept == "suppress" else None
        return kept | greedy_mis(key, room, candidates.graph.adjacent, around)

    def suppressing(self, before: Kept, after: Kept) -> Kept:
        return after if self.around_kept == "suppress" else after & ~before


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [MIS]

"""Spreading out: a maximal independent set, so that no two tokens kept by it are too alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Growth, Kept, Room, Selector, Stage, hookimpl
from prunekit.kernels.mis import greedy_mis
from prunekit.kernels.ranking import packed_key


class MIS(Selector):
    """Walks the tokens by falling score, takes one, drops its neighbours, until the room is used.

    The second half of D²Pruner (arXiv:2512.19443). The set is the greedy, lexicographically first maximal
    independent set among the tokens not kept yet; it may run dry before the room is used. Uses the order of
    scores alone, ties by lowest index. No graph is built: how the walk goes is in `Selection.explain`.
    """

    use: Literal["mis"] = "mis"
    around_kept: Literal["ignore", "suppress"] = Field(
        "ignore",
        description="Whether tokens kept by earlier selectors suppress their neighbours too.",
    )

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Growth:
        tokens, suppress = candidates.tokens, self.around_kept == "suppress"
        found, plan = greedy_mis(
            packed_key(candidates.scores, tokens.present & ~kept),
            room,
            candidates.graph,
            kept if suppress else None,
            positions=tokens.positions,
            engine=candidates.engine,
            most=candidates.most,
        )
        after = kept | found.taken
        return Growth(after, after if suppress else found.taken, found.exact, str(plan))


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [MIS]

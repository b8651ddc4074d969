"""Important and different: maximal marginal relevance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Room, Selector, Stage, hookimpl
from prunekit.kernels.farthest import farthest
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.scaling import spread


class MMR(Selector):
    """Takes the token of the best balance between its score and its largest cosine to what is kept.

    The selector of IDPruner (arXiv:2602.13315), one token at a time: balance · importance -
    (1 - balance) · cosine, the importance being the scores scaled to [0, 1) within the sample. The best by
    score comes first where nothing is kept yet. Ties fall to the lowest index, and NaN ranks last.
    """

    use: Literal["mmr"] = "mmr"
    balance: float = Field(0.5, ge=0, le=1, description="How much importance counts; the rest is difference.")

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens = candidates.tokens
        above, span = spread(candidates.scores, tokens.present)
        importance = above / (span + 1e-6)
        return kept | farthest(
            Likeness.of(tokens.features),
            Task(kept, tokens.present & ~kept, room, candidates.most, candidates.engine),
            first=candidates.scores,
            worth=self.balance * importance,
            repulsion=1 - self.balance,
        )


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [MMR]

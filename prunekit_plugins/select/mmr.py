"""Important and different: maximal marginal relevance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, hookimpl
from prunekit.kernels.farthest import farthest
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.scaling import below_one


class MMR(Selector):
    """Takes the token of the best balance between its score and its largest cosine to what is kept.

    The selector of IDPruner (arXiv:2602.13315): balance · importance - (1 - balance) · cosine, the importance
    being the scores scaled to [0, 1) within the sample. The best by score comes first where nothing is kept
    yet. Ties fall to the lowest index, and NaN ranks last. Several taken at once do not regard one another.
    """

    use: Literal["mmr"] = "mmr"
    balance: float = Field(0.5, ge=0, le=1, description="How much importance counts; the rest is difference.")
    at_once: int = Field(1, ge=1, description="How many tokens to take before looking again at who is kept.")

    @property
    def compares(self) -> Pairs:
        return "kept"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens = candidates.tokens
        return kept | farthest(
            Likeness.of(tokens.features),
            Task(kept, tokens.present & ~kept, room, candidates.most, candidates.engine),
            first=candidates.scores,
            worth=self.balance * below_one(candidates.scores, tokens.present),
            repulsion=1 - self.balance,
            at_once=self.at_once,
        )


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [MMR]

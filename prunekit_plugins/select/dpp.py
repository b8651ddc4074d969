"""Relevant and different: the greedy most likely set of a determinantal point process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, hookimpl
from prunekit.kernels.dpp import dpp
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.scaling import of_largest, up_to_one


class DPP(Selector):
    """Takes the token that adds most to the volume the kept ones span, its relevance times what is new in it.

    The selector of CDPruner (arXiv:2506.10967): greedy maximisation of the determinant of
    r_i · cos(i, j) · r_j, r from the scores. What is kept already is conditioned on. Ties fall to the lowest
    index. Relevance is scaled within each sample, where the official code scales over the batch; and once
    nothing new is left it takes the best by score, where the official code repeats tokens.
    """

    use: Literal["dpp"] = "dpp"
    relevance: Literal["min_max", "raw", "none"] = Field(
        "min_max",
        description="The scores scaled to about (0, 1], the scores as they are (their sign does not matter), "
        "or the same for all.",
    )

    @property
    def compares(self) -> Pairs:
        return "kept"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens, scores = candidates.tokens, candidates.scores
        return kept | dpp(
            Likeness.of(tokens.features),
            Task(kept, tokens.present & ~kept, room, candidates.most, candidates.engine),
            scores=scores,
            relevance=self._relevance(candidates),
        )

    def _relevance(self, candidates: Candidates) -> Tensor | None:
        scores, present = candidates.scores, candidates.tokens.present
        if self.relevance == "none":
            return None
        if self.relevance == "raw":
            return of_largest(scores, present)
        return up_to_one(scores, present)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [DPP]

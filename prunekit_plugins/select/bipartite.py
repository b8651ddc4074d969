"""Doubles go: tokens that have one much like them in the other half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from prunekit import Candidates, Growth, Kept, Pairs, Room, Selector, Signal, Stage, Where, hookimpl
from prunekit.kernels.cosine import cosine, unit
from prunekit.kernels.greedy import Task
from prunekit.kernels.halving import halved
from prunekit.kernels.known import Pick
from prunekit.kernels.planes import raster_rank
from prunekit.kernels.ranking import best
from prunekit_plugins import compared


class Bipartite(Selector):
    """Keeps what bipartite matching leaves: tokens alternate between two halves, in raster order, and those
    of the first that are most like one of the second go.

    The matching of ToMe (arXiv:2210.09461). Kept tokens take part and stay. ToMe takes some tokens in every
    block, half of them at most; here, where more than half must go, the matching is repeated among those
    that are left. Scores do not matter. Ties fall to the lowest index.
    """

    use: Literal["bipartite"] = "bipartite"
    by: compared.By = Field("features", description=compared.WHAT)
    layer: int = Field(-2, description=compared.LAYER)

    @property
    def needs(self) -> frozenset[Signal]:
        return compared.signals_of(self.by, self.layer)

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"order"})

    @property
    def compares(self) -> Pairs:
        return "all"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Growth:
        tokens = candidates.tokens
        rank = raster_rank(tokens.positions, tokens.present)
        order = Pick(rank.argsort(-1))
        vectors = unit(order(compared.vectors_of(tokens, self.by, self.layer)))
        stays, exact = halved(
            cosine(vectors, vectors),
            Task(order(kept), order(tokens.present & ~kept), room, candidates.most, candidates.engine),
        )
        stays = stays.gather(-1, rank) & ~kept
        # Where none may stay one does, and where rounds ran out too many do.
        return Growth(kept | best(candidates.scores, stays, room), exact=exact)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Bipartite]

"""Centres of clusters: tokens that many others of the rest are near to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, hookimpl
from prunekit.budget import share_of
from prunekit.kernels.known import Pick
from prunekit.kernels.merging import seats
from prunekit.kernels.peaks import peak_worth
from prunekit.kernels.ranking import best, packed_key, take


class DensityPeaks(Selector):
    """Takes the densest tokens far from denser ones, among the best of the rest: DPC-KNN.

    How SparseVLM (arXiv:2410.04417) recycles: the best `share` of the tokens to be dropped, and one more, are
    clustered by their features. It adds the clusters to what is kept; here they stand at their centres, which
    count. With `per`, put before the selector of what is kept: it takes so many centres that with the room
    it leaves there is one for every `per` recycled tokens, and one more. The official code adds random noise
    to densities; here equal ones fall to the lowest index. A token that holds NaN or infinities comes last.
    """

    use: Literal["density_peaks"] = "density_peaks"
    share: float = Field(0.3, gt=0, le=1, description="The share of the rest to choose from.")
    per: int | None = Field(
        None, ge=1, description="Take one token for this many of those; null: as many as there is room for."
    )
    neighbours: int | None = Field(
        None, ge=1, description="How many nearest tokens density is about; null: as many as are taken."
    )

    @property
    def compares(self) -> Pairs:
        return "all"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens, scores = candidates.tokens, candidates.scores
        free = tokens.present & ~kept
        leaving = self._leaving(free, room)
        wanted = room - leaving
        count = (share_of(free.sum(-1) - leaving, self.share) + 1).maximum(wanted)
        pool = best(scores, free, leaving + count) & ~best(scores, free, leaving)
        neighbours = wanted if self.neighbours is None else torch.full_like(wanted, self.neighbours)
        return kept | take(packed_key(_worth(tokens.features, pool, neighbours), pool), wanted)

    def _leaving(self, free: Bool[Tensor, "batch tokens"], room: Room) -> Room:
        """The room for later selectors: the most that, with the centres it asks for, there is room for.

        With one token more left to them there is one fewer to recycle, so that there are as many centres or
        one fewer: every sum occurs.
        """
        if self.per is None:
            return torch.zeros_like(room)
        left = torch.arange(free.shape[-1] + 1, device=room.device)
        recycled = share_of((free.sum(-1)[:, None] - left).clamp(min=0), self.share) + 1
        asked = left + recycled // self.per + 1
        return ((asked <= room[:, None]).sum(-1) - 1).clamp(min=0)


def _worth(features: Tensor, pool: Kept, neighbours: Room) -> Float[Tensor, "batch tokens"]:
    """How good a centre each token of the pool would be; NaN for one that holds no finite numbers."""
    places, real = seats(pool)
    points = Pick(places)(features).float()
    finite = points.isfinite().all(-1)
    worth = peak_worth(points, real & finite, neighbours).masked_fill(~finite, torch.nan)
    return torch.zeros(pool.shape, device=pool.device).scatter(-1, places, worth)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [DensityPeaks]

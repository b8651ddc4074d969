"""To each part its share: the parts of a sample share the room out, and each takes its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from prunekit import (
    Candidates,
    Growth,
    ImportanceScorer,
    Kept,
    Room,
    Scores,
    Selector,
    Stage,
    Where,
    hookimpl,
)
from prunekit.kernels.parts import (
    Part,
    best_of_parts,
    cell_of,
    chunk_of,
    mean_of,
    of_all_parts,
    quotas,
    segment_of,
    size_of,
)
from prunekit.kernels.planes import plane_of
from prunekit.kernels.ranking import ahead, packed_key
from prunekit.kernels.scaling import widest


class Quota(Selector):
    """Shares the room out among the parts of a sample, and takes the best by score of each.

    With chunks and their mean worth the selector of HoloV (arXiv:2510.02912), with planes and the softmax of
    it that of VidCom2 (arXiv:2505.14454), with segments the global half of AdaTP (arXiv:2505.20100), with
    cells that of S²Prune. A part never gets more than it has, so that all the room is used: the official code
    of HoloV fills up with zeros, that of VidCom2 rounds each frame by itself.

    Segments are frames in a row, each like the one before it: the cosine of the means of their tokens, at
    length 1, is at least `alike`.
    """

    use: Literal["quota"] = "quota"
    part: Literal["plane", "chunk", "cell", "segment"] = Field(
        "plane",
        description="A plane each (an image, tile or frame), contiguous chunks of the raster, the cells of a "
        "grid over every plane, or segments of planes in a row that are alike.",
    )
    chunks: int = Field(16, ge=1, description="How many chunks; the first ones are one token longer.")
    rows: int = Field(4, ge=1, le=1024, description="How many rows of cells over every plane.")
    columns: int = Field(4, ge=1, le=1024, description="How many columns of cells over every plane.")
    alike: float = Field(
        0.9, ge=-1, le=1, description="The least cosine of two planes in a row that are of one segment."
    )
    share: Literal["size", "mean", "softmax"] = Field(
        "size",
        description="In proportion to the part's tokens, to their mean worth, or to its tokens and how far "
        "its mean worth stands out among the parts.",
    )
    worth: ImportanceScorer | None = Field(
        None, description="What parts are judged by; the scores by default."
    )
    temperature: float = Field(0.01, gt=0, description="How sharply the softmax tells parts apart.")
    leftover: Literal["share", "remainder"] = Field(
        "remainder", description="Who gets what rounding down leaves: the largest share, or remainder."
    )
    least: int = Field(
        0, ge=0, description="How many tokens of each part are taken before the rest is shared out."
    )
    first: Selector | None = Field(
        None,
        description="Of each part, what this selector would take had it all the room comes before the rest.",
    )

    @property
    def where(self) -> frozenset[Where]:
        own: Mapping[str, Where] = {"cell": "cell", "chunk": "order", "plane": "plane", "segment": "plane"}
        return super().where | frozenset[Where]({own[self.part]})

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Growth:
        tokens = candidates.tokens
        part, free = self.parts_of(candidates), tokens.present & ~kept
        if not free.numel():
            return Growth(kept)
        worth = candidates.scores if self.worth is None else self.worth(tokens)
        share = self.shares(worth, part, free)
        quota = quotas(share, part, free, room, leftover=self.leftover, least=self.least)
        key = packed_key(candidates.scores, free)
        if self.first is None:
            return Growth(kept | best_of_parts(key, part, quota))
        given = self.first(replace(candidates, limit=None), kept, free.sum(-1))
        growth = given if isinstance(given, Growth) else Growth(given)
        after = kept | best_of_parts(ahead(key, growth.kept), part, quota)
        suppressing = None if growth.suppressing is None else growth.suppressing & after
        return replace(growth, kept=after, suppressing=suppressing)

    def parts_of(self, candidates: Candidates) -> Part:
        """The part of each token, as a number."""
        positions, present = candidates.tokens.positions, candidates.tokens.present
        match self.part:
            case "plane":
                return plane_of(positions, present)
            case "chunk":
                return chunk_of(positions, present, self.chunks)
            case "cell":
                return cell_of(positions, present, self.rows, self.columns)
            case "segment":
                return segment_of(candidates.tokens.features, positions, present, self.alike)

    def shares(self, worth: Scores, part: Part, free: Kept) -> Scores:
        """For each token the share of its part, in [0, 1]; those of all parts sum to about 1."""
        evenly = size_of(part, free) / free.sum(-1, keepdim=True).clamp(min=1)
        if self.share == "size":
            return evenly
        if self.share == "mean":
            mean = _mean(worth, part, free).clamp(min=0)
            return mean / (of_all_parts(mean, part, free) + 1e-6)
        odds = self.odds(worth, part, free)
        count = of_all_parts(torch.ones_like(odds), part, free).clamp(min=1)
        share = evenly * (1 + odds - 1 / count)
        return share / of_all_parts(share, part, free).clamp(min=1e-12)

    def odds(self, worth: Scores, part: Part, free: Kept) -> Scores:
        """For each token the softmax of its part's mean worth among all parts, in [0, 1]."""
        mean = _mean(worth, part, free)
        above = mean - mean.masked_fill(~free, -torch.inf).amax(-1, keepdim=True)
        odds = (above / self.temperature).exp().masked_fill(~free, 0)
        return odds / of_all_parts(odds, part, free).clamp(min=1e-12)


def _mean(worth: Scores, part: Part, free: Kept) -> Scores:
    """For each token the mean worth of its part's, where what is no number counts as 0."""
    return mean_of(worth.nan_to_num(0, 0, 0).to(widest(worth.device)), part, free)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Quota]

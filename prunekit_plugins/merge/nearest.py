"""Nothing thrown away: each dropped token joins the kept one most like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from prunekit import Merger, Pairs, Selection, Signal, Stage, TokenBatch, Where, hookimpl
from prunekit.budget import share_of
from prunekit.kernels.merging import Distance, Rule, joined, merged
from prunekit.kernels.planes import raster_rank
from prunekit.kernels.ranking import best
from prunekit_plugins import compared
from prunekit_plugins.merge import weighing


class Nearest(Merger):
    """Each dropped token joins the representative nearest to it; ties fall to the lowest index.

    Into all that is kept, across halves, it is the merging of ToMe (arXiv:2210.09461); into the tokens of a
    `strided` selector that of VisionZip (arXiv:2412.04467), and into those of `density_peaks` that of
    SparseVLM (arXiv:2410.04417). Into a single token, it is what PruMerge (arXiv:2403.15388) adds as an extra
    one. A token that holds NaN or infinities neither joins nor is joined.

    Returns:
        The features in float32, changed for representatives alone.
    """

    use: Literal["nearest"] = "nearest"
    into: tuple[str, ...] = Field(
        (), strict=False, description="The selectors whose tokens are representatives; all, if none is named."
    )
    by: compared.By = Field("features", description=compared.WHAT)
    layer: int = Field(-2, description=compared.LAYER)
    distance: Distance = Field("cosine", description="How far apart two tokens are.")
    halves: bool = Field(
        False,
        description="Whether tokens, in raster order, alternate between two halves and join the other one.",
    )
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The share of the tokens no other selector kept that is merged, the best by score, and "
        "one more; the others are dropped.",
    )
    rule: Rule = Field("mean", description=weighing.RULE)
    weight: weighing.Weight = Field("equal", description=weighing.WHAT)

    @property
    def needs(self) -> frozenset[Signal]:
        return compared.signals_of(self.by, self.layer) | weighing.signals_of(self.weight)

    @property
    def after(self) -> frozenset[str]:
        return frozenset(self.into)

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"order"}) if self.halves else frozenset()

    @property
    def compares(self) -> Pairs:
        return "kept"

    def __call__(self, tokens: TokenBatch, selection: Selection) -> Float[Tensor, "batch tokens dim"]:
        standing = selection.by(self.into)
        weight = weighing.weights_of(tokens, selection, self.weight)
        groups = joined(
            compared.vectors_of(tokens, self.by, self.layer),
            standing,
            self._members(tokens, selection, standing),
            distance=self.distance,
            half=raster_rank(tokens.positions, tokens.present) % 2 == 0 if self.halves else None,
        )
        return merged(tokens.features, groups.weighed(weight), weight, self.rule)

    def _members(
        self, tokens: TokenBatch, selection: Selection, standing: Bool[Tensor, "batch tokens"]
    ) -> Bool[Tensor, "batch tokens"]:
        """The dropped tokens that join a representative."""
        dropped = tokens.present & ~selection.kept
        if self.share == 1:
            return dropped
        among = standing if self.into else torch.zeros_like(standing)
        counted = share_of((dropped | among).sum(-1), self.share) + 1 - among.sum(-1)
        return best(selection.debiased, dropped, counted)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Nearest]

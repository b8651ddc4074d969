"""Spread without looking: every so many tokens one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from prunekit import Candidates, Kept, Room, Selector, Stage, Where, hookimpl
from prunekit.kernels.planes import raster_rank
from prunekit.kernels.ranking import NEVER, take


class Strided(Selector):
    """Takes every so many of the tokens not kept yet, from the first on, in raster order.

    How VisionZip (arXiv:2412.04467) finds the tokens that the rest is merged into. There the stride is the
    number of tokens left by the room, rounded down, so the end of the image may hold none. Counted over all
    tokens, it is the spatial sample of PruMerge+ (arXiv:2403.15388), which may not use all the room; ours
    covers the whole image, where the official code ends before token 575.
    """

    use: Literal["strided"] = "strided"
    among: Literal["rest", "all"] = Field(
        "rest", description="Whether strides are counted over the tokens not kept yet, or over all."
    )
    step: int | None = Field(None, ge=1, description="The stride; null: as the room asks.")
    leave: int = Field(0, ge=0, description="How much of the room is left to later selectors.")

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"order"})

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens = candidates.tokens
        free, room = tokens.present & ~kept, (room - self.leave).clamp(min=0)
        counted = free if self.among == "rest" else tokens.present
        rank = raster_rank(tokens.positions, counted)
        step = counted.sum(-1) // room.clamp(min=1) if self.step is None else torch.full_like(room, self.step)
        struck = free & (rank % step.clamp(min=1)[:, None] == 0)
        return kept | take((-rank).masked_fill(~struck, NEVER), room)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Strided]

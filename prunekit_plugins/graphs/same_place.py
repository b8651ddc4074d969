"""The graph of what comes again: an edge between one place of two frames that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from prunekit import Graph, GraphBuilder, ImplicitGraph, Stage, TokenBatch, Where, hookimpl
from prunekit.kernels.parts import segment_of
from prunekit.kernels.planes import in_one_place


class SamePlace(GraphBuilder):
    """An edge between two tokens on the same row and column of different planes of a segment.

    With an independent set, a place is kept once in a segment: the local half of AdaTP (arXiv:2505.20100),
    after its idea. Segments are frames in a row, each like the one before it: the cosine of the means of
    their tokens, at length 1, is at least `alike`.
    """

    use: Literal["same_place"] = "same_place"
    alike: float = Field(
        0.9,
        ge=-1,
        le=1,
        description="The least cosine of two planes in a row that are of one segment; -1 makes all one.",
    )

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"plane"})

    def __call__(self, tokens: TokenBatch) -> Graph:
        segment = segment_of(tokens.features, tokens.positions, tokens.present, self.alike)
        place = in_one_place(segment, tokens.positions, tokens.present)
        return ImplicitGraph(tokens.present, lambda pick: pick(place), _same, 0.5)


def _same(rows: Tensor, columns: Tensor) -> Tensor:
    """1 for one place, 0 for two."""
    return (rows[:, :, None] == columns[:, None]).float()


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [SamePlace]

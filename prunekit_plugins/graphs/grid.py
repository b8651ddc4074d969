"""The graph of spatial nearness: an edge between tokens close to each other on one plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit import (
    Graph,
    GraphBuilder,
    ImplicitGraph,
    Known,
    Pairs,
    Pick,
    Stage,
    TokenBatch,
    Where,
    hookimpl,
)
from prunekit.graph import Rule
from prunekit.kernels.planes import compact, extents

ELSEWHERE = 1e9
"""How far apart planes are, in cells: too far for any nearness."""


class Grid(GraphBuilder):
    """An edge where two tokens of one plane are near enough; tokens of two planes are never joined.

    The S_spat of D²Pruner (arXiv:2512.19443), whose falloff public sources do not settle: d is the Euclidean
    distance on the token grid, d_max the diagonal of the plane.
    """

    use: Literal["grid"] = "grid"
    falloff: Literal["linear", "gaussian", "radius"] = Field(
        "linear",
        description="linear: 1 - d / d_max; gaussian: exp(-d² / 2σ²); radius: 1 within a Chebyshev radius, "
        "0 beyond.",
    )
    sigma: float = Field(2.0, ge=1e-3, le=1e4, description="σ of the gaussian falloff, in cells.")
    radius: int = Field(1, ge=1, le=1_000_000, description="The radius, in Chebyshev cells.")
    above: float = Field(0.8, ge=0, le=1, description="An edge where the nearness exceeds this.")

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"cell"})

    @property
    def compares(self) -> Pairs:
        return "all"

    def __call__(self, tokens: TokenBatch) -> Graph:
        plane, cell = compact(tokens.positions, tokens.present).float().split([1, 2], -1)
        place = torch.cat([plane * ELSEWHERE, cell], -1)
        return ImplicitGraph(tokens.present, *self._likeness(tokens, place), self.above, self._bound)

    def _likeness(self, tokens: TokenBatch, place: Tensor) -> tuple[Callable[[Pick], Known], Rule]:
        """What must be known of tokens, and how near two of them are."""
        if self.falloff == "radius":
            return lambda pick: pick(place), lambda a, b: _within(a, b, self.radius)
        if self.falloff == "gaussian":
            scale = -2 * self.sigma**2
            return lambda pick: pick(place), lambda a, b: (_distance(a, b).square() / scale).exp()
        size = extents(tokens.positions, tokens.present)
        diagonal = (size - 1).float().norm(dim=-1).clamp(min=1)
        return (
            lambda pick: (pick(place), pick(diagonal)),
            lambda a, b: (1 - _distance(a[0], b[0]) / a[1][..., None]).clamp_(min=0),
        )

    def _bound(self, level: float) -> int | None:
        """How many cells apart tokens nearer than `level` can be, a little room for rounding included."""
        if self.falloff == "radius":
            return self.radius
        if self.falloff == "gaussian" and level > 0:
            return int(self.sigma * math.sqrt(2 * max(-math.log(level), 0)) + 1e-3)
        return None


def _within(rows: Tensor, columns: Tensor, radius: int) -> Tensor:
    """1 within a Chebyshev radius, 0 beyond."""
    return (torch.cdist(rows, columns, p=torch.inf) <= radius).float()


def _distance(rows: Tensor, columns: Tensor) -> Tensor:
    """Euclidean distances in float32, exact for tokens of one plane; not by products, which would round."""
    return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Grid]

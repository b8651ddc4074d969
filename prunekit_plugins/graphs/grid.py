"""The graph of spatial nearness: an edge between tokens close to each other on one plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit import Graph, GraphBuilder, ImplicitGraph, Stage, TokenBatch, hookimpl
from prunekit.kernels.planes import extents


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
    sigma: float = Field(2.0, gt=0, description="σ of the gaussian falloff, in cells.")
    radius: int = Field(1, ge=1, description="The radius, in Chebyshev cells.")
    above: float = Field(0.8, ge=0, le=1, description="An edge where the nearness exceeds this.")

    def __call__(self, tokens: TokenBatch) -> Graph:
        plane, cell = tokens.positions[..., 0], tokens.positions[..., 1:].float()
        size = extents(tokens.positions, tokens.present)
        diagonal = (size - 1).float().norm(dim=-1).clamp(min=1)

        def rule(rows: Tensor, columns: Tensor) -> Tensor:
            batch = torch.arange(len(rows), device=rows.device)[:, None]
            apart = cell[batch, rows][:, :, None] - cell[batch, columns][:, None]
            together = plane[batch, rows][:, :, None] == plane[batch, columns][:, None]
            if self.falloff == "radius":
                near = (apart.abs().amax(-1) <= self.radius).float()
            elif self.falloff == "gaussian":
                near = torch.exp(-apart.square().sum(-1) / (2 * self.sigma**2))
            else:
                near = 1 - apart.norm(dim=-1) / diagonal[batch, rows][:, :, None]
            return near * together

        return ImplicitGraph(tokens.present, rule, self.above)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Grid]

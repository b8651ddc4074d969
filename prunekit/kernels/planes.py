"""Where tokens stand on their planes: extents and raster order, from `(plane, row, column)` alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def extents(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens 2"]:
    """For each token the rows and columns of the plane it stands on, counted to the last present token."""
    planes, cells = positions[..., 0].masked_fill(~present, 0), positions[..., 1:] + 1
    cells = cells.masked_fill(~present[..., None], 1)
    # The first place of its plane among the sorted stands for a plane, whatever its number.
    owner = torch.searchsorted(planes.sort(-1).values, planes)[..., None].expand_as(cells)
    return torch.ones_like(cells).scatter_reduce(1, owner, cells, "amax").gather(1, owner)


def compact(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens 3"]:
    """The same layout in small numbers, which float32 tells apart; 0 at padding.

    Planes are numbered by their first place among all tokens sorted by plane, and cells counted from the
    least of the sample.
    """
    if not positions.shape[1]:
        return positions
    padding = ~present[..., None]
    planes, cells = positions[..., 0].masked_fill(~present, 0), positions[..., 1:]
    owner = torch.searchsorted(planes.sort(-1).values, planes)[..., None]
    least = cells.masked_fill(padding, torch.iinfo(torch.int64).max).amin(1, keepdim=True)
    return torch.cat([owner, cells - least], -1).masked_fill(padding, 0)


def raster_rank(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"]:
    """The rank of each present token in raster order (plane, row, column) within its sample.

    Padding ranks behind every present token.
    """
    order = torch.arange(positions.shape[1], device=positions.device).expand(present.shape)
    for column in (positions[..., 2], positions[..., 1], positions[..., 0], (~present).long()):
        order = order.gather(-1, column.gather(-1, order).argsort(dim=-1, stable=True))
    return order.argsort(-1)

"""Who stands where beside a token: on the plane before, so many cells away, or next in the raster."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.parts import rank_within, size_of
from prunekit.kernels.planes import compact, extents, plane_of, raster_order, sorted_by


def cell_before(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"]
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """For each token the one on the same cell of the nearest plane before, and whether there is one.

    In a video, what was there in the frame before.
    """
    order = sorted_by(present, positions[..., 1], positions[..., 2], positions[..., 0])
    before = order.roll(1, -1)
    cells = positions[..., 1:].masked_fill(~present[..., None], -1)
    same = (_of(cells, order) == _of(cells, before)).all(-1) & present.gather(-1, order)
    same[..., :1] = False
    return before.gather(-1, order.argsort(-1)), same.gather(-1, order.argsort(-1))


def cell_beside(
    positions: Int[Tensor, "batch tokens 3"],
    present: Bool[Tensor, "batch tokens"],
    rows: int,
    columns: int,
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """For each token the one so many rows and columns further on its plane, and whether there is one."""
    if not positions.shape[1]:
        return positions[..., 0], present
    plane, row, column = (compact(positions, present) + 1).unbind(-1)
    height, width = (
        side.amax(-1, keepdim=True) + 1 + 2 * max(abs(rows), abs(columns)) for side in (row, column)
    )
    key = (plane * height + row) * width + column
    known, order = key.masked_fill(~present, torch.iinfo(torch.int64).max).sort(-1)
    wanted = key + rows * width + columns
    place = torch.searchsorted(known, wanted).clamp(max=key.shape[-1] - 1)
    return order.gather(-1, place), (known.gather(-1, place) == wanted) & present


def raster_beside(
    positions: Int[Tensor, "batch tokens 3"],
    present: Bool[Tensor, "batch tokens"],
    rows: int,
    columns: int,
) -> Int[Tensor, "batch tokens"]:
    """For each token the one so many rows and columns further in the raster of its plane.

    What goes beyond the end of a row goes on in the next one; beyond the last token is the last, before the
    first the first.
    """
    plane, order = plane_of(positions, present), raster_order(positions, present)
    overall = order.argsort(-1)
    rank = rank_within(-overall, plane.masked_fill(~present, present.shape[-1]))
    further = rank + rows * extents(positions, present)[..., 1] + columns
    last = size_of(plane, present) - 1
    there = (overall - rank + further.minimum(last).clamp(min=0)).masked_fill(~present, 0)
    return order.gather(-1, there)


def _of(cells: Int[Tensor, "batch tokens 2"], tokens: Int[Tensor, "batch some"]) -> Tensor:
    return cells.gather(1, tokens[..., None].expand(-1, -1, 2))

"""Where tokens stand on their planes: extents and raster order, from `(plane, row, column)` alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def extents(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens 2"]:
    """For each token the rows and columns of the plane it stands on, counted to the last present token."""
    cells = (positions[..., 1:] + 1).masked_fill(~present[..., None], 1)
    owner = plane_of(positions, present)[..., None].expand_as(cells)
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
    padding, cells = ~present[..., None], positions[..., 1:]
    least = cells.masked_fill(padding, torch.iinfo(torch.int64).max).amin(1, keepdim=True)
    return torch.cat([plane_of(positions, present)[..., None], cells - least], -1).masked_fill(padding, 0)


def raster_rank(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"]:
    """The rank of each present token in raster order (plane, row, column) within its sample.

    Padding ranks behind every present token.
    """
    return raster_order(positions, present).argsort(-1)


def raster_order(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"]:
    """The tokens of each sample in raster order (plane, row, column), padding behind."""
    return sorted_by(present, positions[..., 0], positions[..., 1], positions[..., 2])


def plane_of(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"]:
    """For each token the first place of its plane among all sorted by plane, whatever the plane's number."""
    return numbered(positions[..., 0], present)


def in_one_place(
    part: Int[Tensor, "batch tokens"],
    positions: Int[Tensor, "batch tokens 3"],
    present: Bool[Tensor, "batch tokens"],
) -> Int[Tensor, "batch tokens"]:
    """For each token a number it shares with those of its part on the same row and column of any plane."""
    _, row, column = compact(positions, present).unbind(-1)
    for key in (row, column):
        wide = key.amax(-1, keepdim=True) + 1 if key.shape[-1] else 1
        part = part * wide + key
    return numbered(part, present)


def numbered(
    key: Int[Tensor, "batch tokens"], present: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"]:
    """For each token the first place of its key among all sorted, so that numbers are small and in order."""
    key = key.masked_fill(~present, 0).contiguous()
    return torch.searchsorted(key.sort(-1).values, key)


def sorted_by(present: Bool[Tensor, "batch tokens"], *keys: Int[Tensor, "batch tokens"]) -> Tensor:
    """The tokens by the first key, then by the others, padding behind."""
    order = torch.arange(present.shape[-1], device=present.device).expand(present.shape)
    for column in (*reversed(keys), (~present).long()):
        order = order.gather(-1, column.gather(-1, order).argsort(dim=-1, stable=True))
    return order

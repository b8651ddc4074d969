"""Parts of a sample, such as its planes or runs of its raster, and what of the room goes to each.

A part is a number a token, the same for all its tokens. Nothing here counts parts or reads how many there
are: what is said of a part is said at each of its tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.kernels.cosine import unit
from prunekit.kernels.known import Pick
from prunekit.kernels.planes import extents, numbered, plane_of, raster_rank
from prunekit.kernels.ranking import NEVER, descending, take
from prunekit.kernels.scaling import widest

KNOWN = 2.0**-17
"""How well a part's share of the room is known: nearer ones are tied, and a whole number is met."""

ALIKE = 1e-5
"""How well the likeness of two planes is known: as little below the threshold is at it."""

Part = Int[Tensor, "batch tokens"]
Leftover = Literal["share", "remainder"]


def chunk_of(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"], chunks: int
) -> Part:
    """For each token its chunk: runs in raster order, of which the first ones are one token longer."""
    rank, count = raster_rank(positions, present), present.sum(-1, keepdim=True)
    short, longer = count // chunks, count % chunks
    beyond = longer * (short + 1)
    early = rank // (short + 1)
    late = longer + (rank - beyond) // short.clamp(min=1)
    return torch.where(rank < beyond, early, late)


def cell_of(
    positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"], rows: int, columns: int
) -> Part:
    """For each token its cell: every plane is cut into so many rows and columns, as even as can be.

    A plane of fewer rows or columns than that has a cell for each of them.
    """
    cell = positions[..., 1:].clamp(min=0)
    within = cell * cell.new_tensor([rows, columns]) // extents(positions, present).clamp(min=1)
    row, column = within.unbind(-1)
    return numbered((plane_of(positions, present) * rows + row) * columns + column, present)


def segment_of(
    features: Float[Tensor, "batch tokens dim"],
    positions: Int[Tensor, "batch tokens 3"],
    present: Bool[Tensor, "batch tokens"],
    alike: float,
) -> Part:
    """For each token its segment: planes in a row, each like the one before it.

    Two planes are alike where the cosine of the means of their tokens, at length 1, is at least `alike`.
    """
    if not present.shape[-1]:
        return positions[..., 0]
    plane = plane_of(positions, present)
    vectors = unit(features).masked_fill(~present[..., None], 0)
    # What is said of a plane stands at the place that is its number.
    mean = unit(torch.zeros_like(vectors).scatter_add(1, plane[..., None].expand_as(vectors), vectors))
    real = torch.zeros_like(plane).scatter_add(-1, plane, present.long()) > 0
    places = torch.arange(plane.shape[-1], device=plane.device)
    before = torch.where(real, places, -1).cummax(-1).values.roll(1, -1)
    alone = (places == 0) | (before < 0)
    likeness = (mean * Pick(before.clamp(min=0))(mean)).sum(-1)
    begins = real & ~alone & (likeness < alike - ALIKE)
    return begins.cumsum(-1).gather(-1, plane).masked_fill(~present, 0)


def size_of(part: Part, counted: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """For each token how many counted tokens its part has."""
    return _summed(counted.long(), part, counted)


def mean_of(
    values: Float[Tensor, "batch tokens"], part: Part, counted: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """For each token the mean of its part's counted tokens; 0 where there is none."""
    return _summed(values, part, counted) / size_of(part, counted).clamp(min=1)


def of_all_parts(
    values: Float[Tensor, "batch tokens"], part: Part, counted: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch 1"]:
    """The sum over parts of what is said of each at its tokens."""
    size = size_of(part, counted)
    return (values / size.clamp(min=1)).masked_fill(~counted, 0).sum(-1, keepdim=True)


def rank_within(key: Int[Tensor, "batch tokens"], part: Part) -> Int[Tensor, "batch tokens"]:
    """The rank of each token in its part by falling key, from 0; `NEVER` ranks last."""
    order = descending(key)
    order = order.gather(-1, part.gather(-1, order).argsort(dim=-1, stable=True))
    sorted_part = part.gather(-1, order)
    first = torch.searchsorted(sorted_part, sorted_part)
    places = torch.arange(key.shape[-1], device=key.device)
    return (places - first).gather(-1, order.argsort(-1))


def quotas(
    share: Float[Tensor, "batch tokens"],
    part: Part,
    eligible: Bool[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
    *,
    leftover: Leftover,
    least: int = 0,
) -> Int[Tensor, "batch tokens"]:
    """For each token how many of its part to take, in all the room, and never more than are eligible.

    Each part gets the least, and the floor of its share of the room that leaves. What is left goes around,
    one token a part, to the parts of the largest share or of the largest remainder first, ties to the lower
    part. So does all the room where it is too small for the least of each.

    Args:
        share: The share of each token's part; those of all parts sum to about 1.
        part: The part of each token.
        eligible: The tokens that can be taken.
        room: How many to take of each sample.
        leftover: Who gets what floors leave: the largest `share` first, or the largest `remainder`.
        least: How many each part gets, if it has them.
    """
    size = size_of(part, eligible)
    sure = size.clamp(max=least)
    left = room[:, None] - of_all_parts(sure.to(widest(share.device)), part, eligible).round().long()
    short = left < 0
    sure = sure.masked_fill(short, 0)
    wanted = share.to(widest(share.device)) * torch.where(short, room[:, None], left)
    wanted = (wanted / KNOWN).round() * KNOWN
    whole = wanted.floor().long().clamp(min=0).masked_fill(short, 0).minimum(size - sure)
    right = wanted if leftover == "share" else wanted - whole
    floor = sure + whole
    surplus = room[:, None] - of_all_parts(floor.to(wanted), part, eligible).round().long()
    # The tokens beyond the floors stand for what goes around: by round, then by part.
    tokens = torch.arange(part.shape[-1], device=part.device).expand(part.shape)
    index = rank_within((-tokens).masked_fill(~eligible, NEVER), part)
    beyond = eligible & (index >= floor)
    turn = _place(torch.where(beyond, index - floor, part.shape[-1]), right, part)
    given = take((-turn).masked_fill(~beyond, NEVER), surplus.squeeze(-1).clamp(min=0))
    return floor + _summed(given.long(), part, eligible)


def best_of_parts(
    key: Int[Tensor, "batch tokens"], part: Part, quota: Int[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch tokens"]:
    """The tokens of the highest keys in each part, as many as its quota, never one whose key is `NEVER`."""
    return (rank_within(key, part) < quota) & (key != NEVER)


def _place(
    round_: Int[Tensor, "batch tokens"],
    right: Float[Tensor, "batch tokens"],
    part: Part,
) -> Int[Tensor, "batch tokens"]:
    """The place of each token in a queue by round, then by what its part has a right to, then by part."""
    order = torch.arange(part.shape[-1], device=part.device).expand(part.shape)
    for column in (part, -right, round_):
        order = order.gather(-1, column.gather(-1, order).argsort(dim=-1, stable=True))
    return order.argsort(-1)


def _summed(values: Tensor, part: Part, counted: Bool[Tensor, "batch tokens"]) -> Tensor:
    """For each token the sum over its part's counted tokens."""
    values = values.masked_fill(~counted, 0)
    return torch.zeros_like(values).scatter_add(-1, part, values).gather(-1, part)

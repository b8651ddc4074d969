"""Parts of a sample, such as its planes or runs of its raster, and what of the room goes to each.

A part is a number a token, the same for all its tokens. Nothing here counts parts or reads how many there
are: what is said of a part is said at each of its tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.kernels.planes import raster_rank
from prunekit.kernels.ranking import NEVER, descending, take
from prunekit.kernels.scaling import widest

KNOWN = 2.0**-17
"""How well a part's share of the room is known: nearer ones are tied, and a whole number is met."""

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
    leftover: Leftover,
) -> Int[Tensor, "batch tokens"]:
    """For each token how many of its part to take, in all the room, and never more than are eligible.

    Each part gets the floor of its share of the room. What is left goes around, one token a part, to the
    parts of the largest share or of the largest remainder first, ties to the lower part.

    Args:
        share: The share of each token's part; those of all parts sum to about 1.
        part: The part of each token.
        eligible: The tokens that can be taken.
        room: How many to take of each sample.
        leftover: Who gets what floors leave: the largest `share` first, or the largest `remainder`.
    """
    size = size_of(part, eligible)
    wanted = (share.to(widest(share.device)) * room[:, None] / KNOWN).round() * KNOWN
    floor = wanted.floor().long().clamp(min=0).minimum(size)
    surplus = room[:, None] - of_all_parts(floor.to(wanted), part, eligible).round().long()
    # The tokens beyond the floors stand for what goes around: by round, then by part.
    tokens = torch.arange(part.shape[-1], device=part.device).expand(part.shape)
    index = rank_within((-tokens).masked_fill(~eligible, NEVER), part)
    beyond = eligible & (index >= floor)
    turn = _place(torch.where(beyond, index - floor, part.shape[-1]), wanted, floor, leftover, part)
    given = take((-turn).masked_fill(~beyond, NEVER), surplus.squeeze(-1).clamp(min=0))
    return floor + _summed(given.long(), part, eligible)


def best_of_parts(
    key: Int[Tensor, "batch tokens"], part: Part, quota: Int[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch tokens"]:
    """The tokens of the highest keys in each part, as many as its quota, never one whose key is `NEVER`."""
    return (rank_within(key, part) < quota) & (key != NEVER)


def _place(
    round_: Int[Tensor, "batch tokens"],
    wanted: Float[Tensor, "batch tokens"],
    floor: Int[Tensor, "batch tokens"],
    leftover: Leftover,
    part: Part,
) -> Int[Tensor, "batch tokens"]:
    """The place of each token in a queue by round, then by what its part has a right to, then by part."""
    right = wanted if leftover == "share" else wanted - floor
    order = torch.arange(part.shape[-1], device=part.device).expand(part.shape)
    for column in (part, -right, round_):
        order = order.gather(-1, column.gather(-1, order).argsort(dim=-1, stable=True))
    return order.argsort(-1)


def _summed(values: Tensor, part: Part, counted: Bool[Tensor, "batch tokens"]) -> Tensor:
    """For each token the sum over its part's counted tokens."""
    values = values.masked_fill(~counted, 0)
    return torch.zeros_like(values).scatter_add(-1, part, values).gather(-1, part)

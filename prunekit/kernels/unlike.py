"""The tokens least like some pivots, pivot by pivot."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.kernels.cosine import cosine
from prunekit.kernels.ranking import packed_key, take


def least_like(
    vectors: Float[Tensor, "batch tokens dim"],
    pivots: Float[Tensor, "batch pivots dim"],
    real: Bool[Tensor, "batch pivots"],
    eligible: Bool[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
) -> Bool[Tensor, "batch tokens"]:
    """Adds for each pivot in turn the eligible tokens of the lowest cosine to it, until the room is used.

    Each takes an equal part of the room, rounded up. Ties fall to the lowest index.

    Args:
        vectors: The tokens, at unit length.
        pivots: The pivots, at unit length.
        real: Which of them there are; without any, nothing is added.
        eligible: The tokens that may be added.
        room: How many to add to each sample.
    """
    added = torch.zeros_like(eligible)
    count = real.sum(-1).clamp(min=1)
    each, left = (room + count - 1) // count, room
    for likeness, there in zip(cosine(pivots, vectors).unbind(1), real.unbind(1), strict=True):
        wanted = each.minimum(left).masked_fill(~there, 0)
        added = added | take(packed_key(-likeness, eligible & ~added), wanted)
        left = room - added.sum(-1)
    return added

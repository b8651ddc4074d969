"""Farthest point, greedily: always the token least like anything kept so far."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.kernels.cosine import unit
from prunekit.kernels.ranking import NEVER, packed_key


def farthest(
    features: Float[Tensor, "batch tokens dim"],
    kept: Bool[Tensor, "batch tokens"],
    eligible: Bool[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
    first: Float[Tensor, "batch tokens"],
) -> Bool[Tensor, "batch tokens"]:
    """Adds `room` tokens, each the eligible one whose largest cosine to the kept is smallest.

    Ties fall to the lowest index. Where nothing is kept yet, the best by `first` comes first.

    Returns:
        The tokens added, without those kept before.
    """
    vectors = unit(features)
    nearest = torch.full_like(first, -2.0, dtype=torch.float32)
    for seed in range(int(kept.sum(-1).max())):
        nearest = nearest.maximum(_likeness(vectors, kept & (kept.cumsum(-1) == seed + 1)))
    added = torch.zeros_like(kept)
    for step in range(int(room.max())):
        untouched = ~(kept | added).any(-1, keepdim=True)
        key = packed_key(torch.where(untouched, first.float(), -nearest), eligible & ~added)
        place = key.argmax(-1, keepdim=True)
        wanted = (key.gather(-1, place) != NEVER) & (step < room)[:, None]
        newest = torch.zeros_like(added).scatter(-1, place, wanted)
        nearest = nearest.maximum(_likeness(vectors, newest))
        added = added | newest
    return added


def _likeness(
    vectors: Float[Tensor, "batch tokens dim"], one: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """The cosine of every token to the one marked; -2, below any cosine, where none is."""
    marked = (vectors * one[..., None]).sum(1)
    cosine = (vectors @ marked[..., None]).squeeze(-1).clamp(-1, 1)
    return torch.where(one.any(-1, keepdim=True), cosine, -2.0)

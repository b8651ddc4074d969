"""Tokens that stand for others: who counts in whom, and what they become.

A group is one token, its representative, and how much every other token counts in it. On the host only the
representatives have a group; on accelerators every token has a seat for one, so that nothing is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.kernels.cosine import cosine, unit
from prunekit.kernels.distances import distances
from prunekit.kernels.engine import engine_for
from prunekit.kernels.front import to_front
from prunekit.kernels.known import Pick
from prunekit.kernels.ranking import packed_key, take

Distance: TypeAlias = Literal["cosine", "euclidean"]

Rule: TypeAlias = Literal["mean", "add_mean", "add", "sum"]
"""What a representative becomes, x and w being its own features and weight, and Σ over what counts in it:
`mean` (w x + Σ w_j x_j) / (w + Σ w_j), `add_mean` x + Σ w_j x_j / Σ w_j, `add` x + Σ w_j x_j, and `sum`
w x + Σ w_j x_j."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Representatives, and how much each token counts in each.

    Attributes:
        places: The representatives.
        real: False marks a seat without one.
        weights: How much a token counts in a group; 0 for the representative itself.
    """

    places: Int[Tensor, "batch groups"]
    real: Bool[Tensor, "batch groups"]
    weights: Float[Tensor, "batch groups tokens"]

    def weighed(self, weight: Float[Tensor, "batch tokens"]) -> Groups:
        """The same groups, in which each token counts as much as its weight says."""
        return replace(self, weights=self.weights * weight[:, None])


def seats(
    mask: Bool[Tensor, "batch tokens"],
) -> tuple[Int[Tensor, "batch seats"], Bool[Tensor, "batch seats"]]:
    """A place for each marked token and which places are real; on accelerators a place for every token."""
    if engine_for(mask.device) == "host":
        return to_front(mask)
    return torch.arange(mask.shape[-1], device=mask.device).expand(mask.shape), mask


def joined(
    vectors: Float[Tensor, "batch tokens dim"],
    standing: Bool[Tensor, "batch tokens"],
    members: Bool[Tensor, "batch tokens"],
    *,
    distance: Distance = "cosine",
    half: Bool[Tensor, "batch tokens"] | None = None,
) -> Groups:
    """Each member joins its nearest representative, ties by lowest index.

    Tokens that hold anything infinite or NaN neither join nor are joined.

    Args:
        vectors: What nearness is about.
        standing: The representatives.
        members: Those who join one.
        distance: How far two tokens are apart.
        half: Given, a member prefers representatives of the other half to those of its own.
    """
    finite = vectors.isfinite().all(-1)
    places, real = seats(standing & finite)
    near = _nearness(vectors, places, distance).masked_fill(~real[..., None], -torch.inf)
    if half is not None:
        across = near.masked_fill(Pick(places)(half)[..., None] == half[:, None], -torch.inf)
        near = torch.where((across > -torch.inf).any(1, keepdim=True), across, near)
    if not places.shape[1]:
        return Groups(places, real, near)
    owner = near.argmax(1, keepdim=True) == torch.arange(places.shape[1], device=places.device)[:, None]
    return Groups(places, real, (owner & real[..., None] & (members & finite)[:, None]).float())


def surrounded(
    vectors: Float[Tensor, "batch tokens dim"],
    standing: Bool[Tensor, "batch tokens"],
    members: Bool[Tensor, "batch tokens"],
    k: int,
) -> Groups:
    """Each representative gathers the k other members of largest cosine, ties by lowest index.

    A member may count in several groups, or in none. See `joined`.
    """
    finite = vectors.isfinite().all(-1)
    places, real = seats(standing & finite)
    own = places[..., None] == torch.arange(vectors.shape[1], device=vectors.device)
    others = (members & finite)[:, None] & real[..., None] & ~own
    key = packed_key(_nearness(vectors, places, "cosine").flatten(0, 1), others.flatten(0, 1))
    nearest = take(key, torch.full((len(key),), k, device=key.device))
    return Groups(places, real, nearest.view(others.shape).float())


def merged(
    features: Float[Tensor, "batch tokens dim"],
    groups: Groups,
    weight: Float[Tensor, "batch tokens"],
    rule: Rule,
) -> Float[Tensor, "batch tokens dim"]:
    """The features in float32, those of representatives as the rule says.

    A representative in which nothing counts stays as it is, but for `sum`.

    Args:
        features: The features.
        groups: What counts in whom.
        weight: How much each representative counts itself.
        rule: What a representative becomes.
    """
    values = features.float()
    finite = values.isfinite().all(-1)
    weights = groups.weights * finite[:, None]
    total = weights.sum(-1, keepdim=True)
    sums = weights @ values.masked_fill(~finite[..., None], 0)
    pick = Pick(groups.places)
    own, share = pick(values), pick(weight)[..., None]
    match rule:
        case "mean":
            rows = torch.where(total > 0, (share * own + sums) / (share + total), own)
        case "add_mean":
            rows = own + torch.where(total > 0, sums / total, 0)
        case "add":
            rows = own + sums
        case "sum":
            rows = share * own + sums
    rows = torch.where(groups.real[..., None], rows, own)
    return values.scatter(1, groups.places[..., None].expand_as(rows), rows)


def _nearness(
    vectors: Float[Tensor, "batch tokens dim"], places: Int[Tensor, "batch seats"], distance: Distance
) -> Float[Tensor, "batch seats tokens"]:
    """How near each token is to those at the places: a cosine, or a distance with its sign turned."""
    if distance == "cosine":
        directions = unit(vectors)
        return cosine(Pick(places)(directions), directions)
    return -distances(Pick(places)(vectors), vectors)

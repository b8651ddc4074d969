"""Peaks of density: tokens with many near ones, far from any token that has more (DPC-KNN).

After Du, Ding and Jia (Knowledge-Based Systems, 2016), as SparseVLM (arXiv:2410.04417) uses it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.kernels.distances import distances


def peak_worth(
    points: Float[Tensor, "batch tokens dim"],
    eligible: Bool[Tensor, "batch tokens"],
    neighbours: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, "batch tokens"]:
    """How good a centre each eligible token would be: its density times its distance to a denser one.

    Distances are Euclidean, divided by the root of the width. Density is exp(-mean of the squares to the
    nearest tokens, itself included). The densest token's distance is the largest of all. Of equally dense
    tokens the first counts as denser.

    Args:
        points: The tokens; the eligible ones hold finite numbers.
        eligible: Which of them there are.
        neighbours: How many nearest tokens density is about; as many as there are where that is fewer.
        noise: What is added to densities.

    Returns:
        0 and more; -∞ where a token is not eligible.
    """
    count, dim = points.shape[1:]
    if not count:
        return points.new_zeros(len(points), 0, dtype=torch.float32)
    values = points.masked_fill(~eligible[..., None], 0)
    apart = distances(values, values) / dim**0.5
    both = eligible[:, :, None] & eligible[:, None]
    index = torch.arange(count, device=points.device)
    counted = neighbours.minimum(eligible.sum(-1)).clamp(min=1)[:, None]
    nearest = apart.square().masked_fill(~both, torch.inf).sort(-1).values
    spread = nearest.masked_fill(index >= counted[..., None], 0).sum(-1) / counted
    density = (-spread).exp() if noise is None else (-spread).exp() + noise
    ahead, behind = density[:, None], density[..., None]
    denser = (ahead > behind) | ((ahead == behind) & (index < index[:, None]))
    largest = apart.masked_fill(~both, 0).amax((1, 2))[:, None]
    distance = apart.masked_fill(~(denser & both), torch.inf).amin(-1).minimum(largest)
    return (density * distance).masked_fill(~eligible, -torch.inf)

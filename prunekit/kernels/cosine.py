"""Cosine similarity that survives what models really produce: half precision, zeros, huge values, NaN."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def unit(features: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
    """The features at length 1, in float32; a zero or non-finite vector becomes zero, like nothing else.

    Scaled by the largest entry first, so that squares neither overflow nor vanish.
    """
    values = features.float()
    largest = values.abs().amax(-1, keepdim=True)
    values = values / torch.where(largest > 0, largest, 1)
    values = values / values.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return values.masked_fill(~values.isfinite().all(-1, keepdim=True), 0.0)


def cosine(
    features: Float[Tensor, "batch tokens dim"],
    rows: Int[Tensor, "batch rows"],
    columns: Int[Tensor, "batch columns"],
) -> Float[Tensor, "batch rows columns"]:
    """The cosine of each row token with each column token of the same sample, in [-1, 1], one block only."""
    return (_picked(features, rows) @ _picked(features, columns).mT).clamp(-1, 1)


def _picked(features: Tensor, places: Tensor) -> Tensor:
    return unit(features.gather(1, places[..., None].expand(-1, -1, features.shape[-1])))

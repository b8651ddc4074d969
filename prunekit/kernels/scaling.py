"""Scores on the scale that a method wants them on, sample by sample."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SCORE_LIMIT = torch.finfo(torch.float32).max / 2
"""Scores beyond it count as it, so that the difference of two is finite."""

NARROW = 1e-6
"""How far scores lie apart at least, where they are divided by it."""


def widest(device: torch.device) -> torch.dtype:
    """float64, in which sums hardly depend on an order; float32 on MPS, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def spread(
    scores: Float[Tensor, "batch tokens"], present: Bool[Tensor, "batch tokens"]
) -> tuple[Float[Tensor, "batch tokens"], Float[Tensor, "batch one"]]:
    """How far each score is above the lowest of its sample, and how far the highest is, in float32.

    Only present tokens are looked at. NaN stays NaN; infinities count as large numbers.
    """
    values = scores.float().clamp(-SCORE_LIMIT, SCORE_LIMIT)
    if not values.shape[-1]:
        return values, values.new_zeros(len(values), 1)
    counted = present & ~values.isnan()
    lowest = values.masked_fill(~counted, SCORE_LIMIT).amin(-1, keepdim=True)
    highest = values.masked_fill(~counted, -SCORE_LIMIT).amax(-1, keepdim=True)
    return values - lowest, (highest - lowest).clamp(min=0)


def up_to_one(
    scores: Float[Tensor, "batch tokens"], present: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """Scores from just above 0 at the lowest of their sample to about 1 at the highest."""
    above, span = spread(scores, present)
    return (above + NARROW) / span.clamp(min=NARROW)


def below_one(
    scores: Float[Tensor, "batch tokens"], present: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """Scores from 0 at the lowest of their sample to just below 1 at the highest."""
    above, span = spread(scores, present)
    return above / (span + NARROW)


def of_largest(
    scores: Float[Tensor, "batch tokens"], present: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """Scores as shares, in [-1, 1], of the largest in magnitude of their sample; NaN stays NaN."""
    values = scores.float().clamp(-SCORE_LIMIT, SCORE_LIMIT)
    if not values.shape[-1]:
        return values
    largest = values.abs().masked_fill(~present | values.isnan(), 0).amax(-1, keepdim=True)
    return values / torch.where(largest > 0, largest, 1)

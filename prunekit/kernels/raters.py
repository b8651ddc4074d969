"""Which words of a prompt have to do with the image, and so may rate its tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MARGIN = 1e-6
"""Relevance this near to the mean is the mean: float32 does not know it better."""

STEEPEST = 1e30
"""Products are scaled by this at most, so that a sum of some stays finite."""


def raters(
    visual: Float[Tensor, "batch tokens dim"],
    text: Float[Tensor, "batch texts dim"],
    present: Bool[Tensor, "batch tokens"],
    spoken: Bool[Tensor, "batch texts"],
) -> Bool[Tensor, "batch texts"]:
    """The text tokens whose relevance is above the mean; all of them where none is.

    Relevance is the softmax over the text of the product of a visual and a text token, not scaled, and the
    mean of that over the visual tokens. Visual tokens that hold anything infinite or NaN are left out.

    Args:
        visual: The visual tokens.
        text: The text tokens, finite.
        present: Which visual tokens are real.
        spoken: Which text tokens are real.
    """
    counted = present & visual.isfinite().all(-1)
    seen, ratio = _scaled(visual.float().masked_fill(~counted[..., None], 0))
    said, other = _scaled(text.float())
    product = (seen @ said.mT) * (ratio * other).clamp(max=STEEPEST)
    shares = product.masked_fill(~spoken[:, None], -torch.inf).softmax(-1)
    relevance = shares.masked_fill(~(counted[..., None] & spoken[:, None]), 0).sum(1)
    relevance = relevance / counted.sum(-1, keepdim=True).clamp(min=1)
    mean = relevance.sum(-1, keepdim=True) / spoken.sum(-1, keepdim=True).clamp(min=1)
    above = spoken & (relevance > mean * (1 + MARGIN))
    return torch.where(above.any(-1, keepdim=True), above, spoken)


def _scaled(values: Float[Tensor, "batch rows dim"]) -> tuple[Tensor, Float[Tensor, "batch 1 1"]]:
    """The values with the largest in a sample being 1, and what they were divided by."""
    if not values.numel():
        return values, values.new_ones(len(values), 1, 1)
    largest = values.abs().amax((1, 2), keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    return values / largest, largest

"""Marked tokens, moved to the front."""

from __future__ import annotations

from jaxtyping import Bool, Int
from torch import Tensor


def to_front(
    mask: Bool[Tensor, "batch tokens"],
) -> tuple[Int[Tensor, "batch most"], Bool[Tensor, "batch most"]]:
    """The indices of the marked tokens of each sample, ascending, and which are real. Reads how many."""
    most = int(mask.sum(-1).max()) if mask.numel() else 0
    places = mask.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return places, mask.gather(-1, places)

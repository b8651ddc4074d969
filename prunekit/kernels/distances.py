"""Euclidean distances by one product, in double precision: squares are subtracted, float32 loses much."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SAME = 1e-12
"""A square this small beside those of the two lengths is 0: float32 vectors do not know it better."""


def distances(
    rows: Float[Tensor, "batch rows dim"], columns: Float[Tensor, "batch columns dim"]
) -> Float[Tensor, "batch rows columns"]:
    """How far each row is from each column, in float32; never infinite for finite vectors."""
    # MPS has no float64.
    ours, theirs = (each.cpu() if each.device.type == "mps" else each for each in (rows, columns))
    one, other = ours.double(), theirs.double()
    lengths = one.square().sum(-1)[..., None] + other.square().sum(-1)[:, None]
    squares = lengths - 2 * one @ other.mT
    apart = squares.masked_fill(squares <= SAME * lengths, 0).sqrt()
    return apart.clamp(max=torch.finfo(torch.float32).max).to(rows.device, torch.float32)

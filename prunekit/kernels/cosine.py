"""Cosine similarity that survives what models really produce: half precision, zeros, huge values, NaN."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SHORTEST, LONGEST = 1e-12, 1e12
"""Between these a length is what it seems: no square that counts has overflown or vanished."""


def unit(features: Float[Tensor, "*lead dim"], look: bool = False) -> Float[Tensor, "*lead dim"]:
    """The features at length 1, in float32; a zero or non-finite vector becomes zero, like nothing else.

    A vector of no ordinary length is scaled by its largest entry first, so that squares neither overflow nor
    vanish. With `look`, values may be read, and that is left out where there is none such; the result is the
    same to the bit.
    """
    values = features.float()
    lengths = values.norm(dim=-1, keepdim=True)
    ordinary = (lengths > SHORTEST) & (lengths < LONGEST)
    if look and bool(ordinary.all()):
        return values / lengths
    return torch.where(ordinary, values / lengths, _scaled(values))


def _scaled(values: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
    largest = values.amax(-1, keepdim=True).maximum(-values.amin(-1, keepdim=True))
    values = values / torch.where(largest == 0, 1, largest)
    values /= values.norm(dim=-1, keepdim=True).clamp(min=1)
    return values.nan_to_num_(0, 0, 0)


def cosine(rows: Float[Tensor, "*lead rows dim"], columns: Float[Tensor, "*lead columns dim"]) -> Tensor:
    """The cosine of each row with each column, both of `unit` length: `(…, rows, columns)` in [-1, 1]."""
    return (rows @ columns.mT).clamp_(-1, 1)

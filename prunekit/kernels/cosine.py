"""Cosine similarity that survives what models really produce: half precision, zeros, huge values, NaN."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from prunekit.kernels.known import Pick

SHORTEST, LONGEST = 1e-12, 1e12
"""Between these a length is what it seems: no square that counts has overflown or vanished."""


def unit(features: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
    """The features at length 1, in float32; a zero or non-finite vector becomes zero, like nothing else.

    Scaled by the largest entry first, so that squares neither overflow nor vanish.
    """
    values = features.float()
    largest = values.amax(-1, keepdim=True).maximum(-values.amin(-1, keepdim=True))
    values = values / torch.where(largest == 0, 1, largest)
    values /= values.norm(dim=-1, keepdim=True).clamp(min=1)
    return values.nan_to_num_(0, 0, 0)


def picked_unit(
    features: Float[Tensor, "batch tokens dim"], pick: Pick
) -> Float[Tensor, "samples picked dim"]:
    """The picked features as `unit` makes them.

    Where `pick` may look and all lengths turn out ordinary, they are only divided by them, in place: this is
    bound by memory, and that takes half the time.
    """
    values = pick(features).float()
    if pick.look:
        lengths = values.norm(dim=-1, keepdim=True)
        if bool(((lengths > SHORTEST) & (lengths < LONGEST)).all()):
            return values.div_(lengths)
    return unit(values)


def cosine(rows: Float[Tensor, "*lead rows dim"], columns: Float[Tensor, "*lead columns dim"]) -> Tensor:
    """The cosine of each row with each column, both of `unit` length: `(…, rows, columns)` in [-1, 1]."""
    return (rows @ columns.mT).clamp_(-1, 1)

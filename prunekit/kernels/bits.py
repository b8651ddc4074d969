"""Masks as bits: thirty-two entries a word, so that a kernel settles them together."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int32
from torch import Tensor
from torch.nn.functional import pad

WORD = 32
"""How many entries a word holds."""


def packed(mask: Bool[Tensor, "*lead entries"]) -> Int32[Tensor, "*lead words"]:
    """The mask in `ceil(entries / 32)` words: bit t of word w is entry 32w + t, and bits past the end are 0.

    Bit 31 is the sign. No value is read on the host.
    """
    whole = pad(mask, (0, -mask.shape[-1] % WORD)).unflatten(-1, (-1, WORD))
    bit = 1 << torch.arange(WORD, dtype=torch.int32, device=mask.device)
    return (whole * bit).sum(-1, dtype=torch.int32)

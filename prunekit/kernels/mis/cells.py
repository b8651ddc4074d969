"""Which token stands on which cell, and so who stands near whom, without comparing all with all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

SPARSEST, SMALL = 64, 1 << 16
"""The most cells a token that a map may have, unless it is small: one strewn wider is not worth making."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """A map of the planes of each sample, with a margin of `reach` cells around each.

    Attributes:
        tokens: The token on each cell, -1 for none.
        corner: For each token the index of the upper left cell within its reach, in the flattened map.
        offsets: The cells within reach, as steps from that corner; the token's own left out.
    """

    tokens: Int[Tensor, "batch cells"]
    corner: Int[Tensor, "batch tokens"]
    offsets: Int[Tensor, " near"]

    @classmethod
    def of(
        cls, positions: Int[Tensor, "batch tokens 3"], present: Bool[Tensor, "batch tokens"], reach: int
    ) -> Cells | None:
        """The map of these tokens; None where cells are shared, or strewn too wide. Reads values."""
        if not bool(present.any()):
            return None
        real = positions[present]
        first, last = real.amin(0), real.amax(0)
        planes, height, width = (last - first + 1).tolist()
        rows, columns = height + 2 * reach, width + 2 * reach
        cells = planes * rows * columns
        if min(planes, height, width) < 1 or cells > max(SPARSEST * present.shape[-1], SMALL):
            return None
        plane, row, column = (positions - first).masked_fill(~present[..., None], 0).unbind(-1)
        corner = (plane * rows + row) * columns + column
        own = reach * columns + reach
        places = torch.arange(present.shape[-1], device=present.device).expand(present.shape)
        spare = corner.new_tensor(cells)
        tokens = corner.new_full((len(present), cells + 1), -1)
        tokens.scatter_(1, torch.where(present, corner + own, spare), places)
        tokens = tokens[:, :-1]
        if int((tokens >= 0).sum()) < len(real):
            return None
        steps = torch.arange(2 * reach + 1, device=present.device)
        offsets = (steps[:, None] * columns + steps).flatten()
        return cls(tokens, corner, offsets[offsets != own])

    def near(
        self, samples: Int[Tensor, " some"], rows: Int[Tensor, "some block"]
    ) -> Int[Tensor, "some block near"]:
        """The tokens within reach of these, -1 where a cell is empty."""
        cells = self.corner[samples[:, None], rows][..., None] + self.offsets
        return self.tokens[samples[:, None, None], cells]

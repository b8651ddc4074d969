"""Which tokens of a forward pass go on into the pruned layers, and in what order they stand there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """The places of the pruned sequence: what stands in each.

    Rows that keep unequal numbers of tokens lose the padding of the prompt first and are then padded on
    the left, so that the last token of every row stays in the last slot, where decoding goes on.

    Attributes:
        source: For each slot the column of its token in the unpruned sequence, ascending.
        valid: False marks a slot with no token of its own.
        full: Whether every slot is valid, known on the host so that no layer has to ask the device.
    """

    source: Int[Tensor, "batch slots"]
    valid: Bool[Tensor, "batch slots"]
    full: bool

    @classmethod
    def keeping(cls, keep: Bool[Tensor, "batch length"], real: Bool[Tensor, "batch length"]) -> Slots | None:
        """The slots for the columns to keep; None where that is all of them. Syncs once.

        Args:
            keep: The columns that go on, the prompt's padding among them.
            real: False marks the prompt's padding.
        """
        kept, counts = torch.stack([keep.sum(1), (keep & real).sum(1)]).tolist()
        if min(kept) == keep.shape[1]:
            return None
        if min(kept) < max(kept):
            return cls._packed(keep & real, max(counts), min(counts) == max(counts))
        return cls._packed(keep, kept[0], True)

    @classmethod
    def _packed(cls, keep: Bool[Tensor, "batch length"], slots: int, full: bool) -> Slots:
        dropped_first = keep.int().argsort(dim=1, stable=True)
        source = dropped_first[:, keep.shape[1] - slots :]
        return cls(source, keep.gather(1, source), full)

    def pick(self, marks: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch slots"]:
        """Of marks on the columns those on the slots; False where a slot has no token of its own."""
        return gather(marks, self.source, -1) & self.valid.to(marks.device)

    def marks(self, length: int) -> Bool[Tensor, "batch length"]:
        """The columns that go on."""
        nothing = self.valid.new_zeros(len(self.valid), length)
        return nothing.scatter(1, self.source, self.valid)

    def slots_of(self, columns: Int[Tensor, "batch picked"], length: int) -> Int[Tensor, "batch picked"]:
        """The slot in which each of these columns stands; 0 for one that does not go on."""
        batch, slots = self.source.shape
        own = torch.arange(slots, device=self.source.device).expand(batch, -1)
        where = self.source.new_zeros(batch, length).scatter(1, self.source, own)
        return where.gather(1, columns.to(where.device))

    def spread(
        self, values: Shaped[Tensor, "batch slots dim"], length: int
    ) -> Shaped[Tensor, "batch length dim"]:
        """The hidden states back at their columns; zero where a token was dropped."""
        index = self.source.to(values.device)[..., None].expand_as(values)
        own = values.masked_fill(~self.valid.to(values.device)[..., None], 0)
        return values.new_zeros(values.shape[0], length, values.shape[2]).scatter_add(1, index, own)


def gather(values: Tensor, index: Int[Tensor, "batch picked"], dim: int, batch_dim: int = 0) -> Tensor:
    """`values` at `index` along `dim`, row by row; a batch of one stands for every row."""
    batch, picked = index.shape
    shape, view = list(values.shape), [1] * values.ndim
    shape[batch_dim] = view[batch_dim] = batch
    values = values.expand(shape)
    shape[dim] = view[dim] = picked
    return values.gather(dim, index.to(values.device).view(view).expand(shape))

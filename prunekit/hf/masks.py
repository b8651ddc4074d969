"""Attention masks of the pruned layers, taken from the masks that the model built itself.

The model builds its masks for the sequence it believes in, the unpruned one. Picking the rows of the
kept queries and the columns of the kept keys keeps whatever structure is in there: causality, padding,
sliding windows, image blocks that see themselves both ways. Nothing is rebuilt by family.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.hf.slots import gather


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The key slots that the queries of one forward pass meet in the pruned layers.

    Attributes:
        index: For each slot the column of its token in the unpruned sequence, past included.
        valid: False marks a slot without a token of its own.
        full: Whether every slot is valid, known on the host.
    """

    index: Int[Tensor, "batch keys"]
    valid: Bool[Tensor, "batch keys"]
    full: bool

    def last(self, count: int) -> Keys:
        """The newest keys: what a sliding cache still holds."""
        if count >= self.index.shape[1]:
            return self
        return Keys(self.index[:, -count:], self.valid[:, -count:], self.full)

    def to(self, device: torch.device) -> Keys:
        """These keys on a device."""
        return Keys(self.index.to(device), self.valid.to(device), self.full)

    def then(self, later: Keys) -> Keys:
        """These keys and the later ones behind them."""
        return Keys(
            torch.cat([self.index, later.index], 1),
            torch.cat([self.valid, later.valid], 1),
            self.full and later.full,
        )


def all_columns(batch: int, start: int, stop: int, device: torch.device) -> Keys:
    """The keys of an unpruned stretch of the sequence."""
    index = torch.arange(start, stop, device=device).expand(batch, -1)
    return Keys(index, torch.ones_like(index, dtype=torch.bool), True)


def pruned_mask(
    mask: Tensor | None,
    queries: Int[Tensor, "batch queries"] | None,
    keys: Keys,
    total: int,
    *,
    flash: bool = False,
) -> Tensor | None:
    """The mask of a pruned layer.

    Args:
        mask: What the model made for this layer: None (plain causal, no padding), a padding mask
            (batch, columns), or a full one (batch | 1, heads | 1, queries, columns), boolean (True
            sees) or additive.
        queries: The row of each kept query in that mask; None for all of them.
        keys: The keys the layer holds, the new ones last.
        total: The length of the unpruned sequence, past included. A mask with fewer columns, made for
            a sliding cache, covers its end.
        flash: Whether attention takes padding masks only, and knows causality by itself.

    Returns:
        A mask of the same kind over (queries, keys). None stays None while no slot is empty.
    """
    if mask is None:
        return None if keys.full else keys.valid if flash else _visible(queries, keys)
    keys = keys.to(mask.device)
    offset = total - mask.shape[-1]
    if mask.ndim == 2:
        seen = gather(mask, (keys.index - offset).clamp(min=0), -1)
        return seen.masked_fill(~keys.valid | (keys.index < offset), 0)
    if queries is not None:
        mask = gather(mask, queries, -2)
    return _own_slots_open(_columns(mask, keys, offset), keys)


def _visible(queries: Int[Tensor, "batch queries"] | None, keys: Keys) -> Bool[Tensor, "batch 1 q k"]:
    """The boolean mask that None stood for.

    The model leaves it out for a whole sequence without a past, and for a single query, which sees all.
    """
    valid = keys.valid[:, None, None, :]
    if queries is None:
        return valid
    causal = keys.index[:, None, None, :] <= queries[:, None, :, None]
    return _own_slots_open(causal & valid, keys)


def _columns(mask: Tensor, keys: Keys, offset: int) -> Tensor:
    index = keys.index - offset
    picked = gather(mask, index.clamp(min=0), -1)
    if keys.full and offset == 0:
        return picked
    hidden = ~(keys.valid & (index >= 0))[:, None, None, :]
    return picked.masked_fill(hidden, _closed(mask.dtype))


def _own_slots_open(mask: Tensor, keys: Keys) -> Tensor:
    """Lets each empty slot see itself: a query that sees nothing gives NaN, and NaN spreads."""
    if keys.full or mask.shape[-2] == 1:
        return mask
    queries = mask.shape[-2]
    empty = torch.diag_embed(~keys.valid[:, -queries:])[:, None]
    empty = torch.nn.functional.pad(empty, (mask.shape[-1] - queries, 0))
    return mask.masked_fill(empty, True if mask.dtype == torch.bool else 0)


def _closed(dtype: torch.dtype) -> bool | float:
    return False if dtype == torch.bool else torch.finfo(dtype).min

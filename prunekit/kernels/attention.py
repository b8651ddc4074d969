"""The attention that some of the queries pay, without the map of all queries to all keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROWS = 32
"""How many queries are softened at once: what is held grows with them, not with all that are wanted."""

KEYS = 2048
"""How many keys of half precision are widened at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Attending:
    """What an attention module is about to compute.

    Attributes:
        query: Rotated and normed.
        key: The same, past included, the newest last; fewer heads than queries where they are shared.
        mask: None, a padding mask (batch, keys), or a full one (batch | 1, heads | 1, queries, keys), boolean
            (True sees) or additive.
        scaling: What products are multiplied by before the softmax.
        softcap: The bound of Gemma's tanh; None for none.
        window: How far back a query sees, where only a mask would say so otherwise.
        causal: Whether a query sees no key after it, where no full mask says so.
        starts: Where each of several sequences begins that are packed into one and do not see each other,
            and where the last one ends; None for one sequence.
    """

    query: Float[Tensor, "batch heads queries dim"]
    key: Float[Tensor, "batch kv_heads keys dim"]
    mask: Tensor | None
    scaling: float
    softcap: float | None = None
    window: int | None = None
    causal: bool = True
    starts: Int[Tensor, " starts"] | None = None

    def sequences(self) -> Iterator[Attending]:
        """Each of the packed sequences by itself. Reads their lengths on the host, if there are several."""
        if self.starts is None:
            yield self
            return
        lengths = self.starts.diff().tolist()
        for query, key in zip(self.query.split(lengths, 2), self.key.split(lengths, 2), strict=True):
            yield replace(self, query=query, key=key, starts=None)


def mean_attention(
    attending: Attending,
    wanted: Int[Tensor, "batch wanted"],
    counted: Bool[Tensor, "batch wanted"],
    rows: int = ROWS,
) -> Float[Tensor, "batch heads keys"]:
    """The mean of `attention_rows` over the wanted queries that count; 0 where none does.

    Holds a few tensors (batch, heads, `rows`, keys), whatever is wanted. What does not count may be NaN.
    """
    total = 0
    for some, real in zip(wanted.split(rows, 1), counted.split(rows, 1), strict=True):
        total += attention_rows(attending, some).masked_fill_(~real[:, None, :, None], 0).sum(2)
    return total / counted.sum(1).clamp(min=1)[:, None, None]


def attention_rows(
    attending: Attending, wanted: Int[Tensor, "batch wanted"]
) -> Float[Tensor, "batch heads wanted keys"]:
    """The softmax attention of the wanted queries, in float32; NaN for a query that sees no key."""
    products = _products(attending, wanted)
    if attending.softcap is not None:
        products = products.div_(attending.softcap).tanh_().mul_(attending.softcap)
    mask = attending.mask
    if mask is None or mask.ndim == 2:
        return products.masked_fill_(~_visible(attending, wanted), -torch.inf).softmax(-1)
    mask = _picked(mask.expand(len(wanted), -1, -1, -1), wanted)
    masked = products.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else products.add_(mask)
    return masked.softmax(-1)


def received_attention(attending: Attending, rows: int = ROWS) -> Float[Tensor, "batch heads keys"]:
    """The mean attention that each key gets from the queries that see it, in [0, 1]; 0 where none does.

    A query that does not see its own key is padding and does not count. Holds a few tensors (batch, heads,
    `rows`, keys).
    """
    (batch, _, queries, _), keys = attending.query.shape, attending.key.shape[-2]
    everyone = torch.arange(queries, device=attending.query.device).expand(batch, -1)
    total, counted = 0, 0
    for some in everyone.split(rows, 1):
        sees = _sees(attending, some)
        real = sees.gather(-1, (some + keys - queries)[..., None])
        counted += (sees & real).sum(1)
        total += attention_rows(attending, some).masked_fill_(~real[:, None], 0).sum(2)
    return total / torch.as_tensor(counted).clamp(min=1)[:, None]


def _sees(attending: Attending, wanted: Int[Tensor, "batch wanted"]) -> Bool[Tensor, "batch wanted keys"]:
    """Which keys the wanted queries see with any head."""
    mask = attending.mask
    if mask is None or mask.ndim == 2:
        return _visible(attending, wanted)[:, 0]
    mask = _picked(mask.expand(len(wanted), -1, -1, -1), wanted)
    return (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2).any(1)


def _products(
    attending: Attending, wanted: Int[Tensor, "batch wanted"]
) -> Float[Tensor, "batch heads wanted keys"]:
    """Queries by keys: the queries that share a head of keys go as one matrix, so that none is repeated."""
    query, key = _picked(attending.query, wanted).float() * attending.scaling, attending.key
    shared = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
    if key.dtype == torch.float32:
        # One sample at a time: all at once, a product would copy keys whose heads are not side by side.
        products = _joined(
            [some @ own.mT for some, own in zip(shared.split(1), key.split(1), strict=True)], 0
        )
    else:
        wide = (part.to(torch.float32, memory_format=torch.contiguous_format) for part in key.split(KEYS, -2))
        products = _joined([shared @ part.mT for part in wide], -1)
    return products.view(*query.shape[:-1], key.shape[-2])


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """The parts as one; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _visible(
    attending: Attending, wanted: Int[Tensor, "batch wanted"]
) -> Bool[Tensor, "batch 1 wanted keys"]:
    """Which keys a query sees where no full mask says so: none after it if causal, none out of reach, no
    padding.
    """
    keys = attending.key.shape[-2]
    place = (wanted + keys - attending.query.shape[-2])[:, None, :, None]
    column = torch.arange(keys, device=wanted.device)
    seen = column <= place if attending.causal else (column >= 0).expand(*place.shape[:-1], -1)
    if attending.window is not None:
        seen = seen & (place - column < attending.window)
    return seen if attending.mask is None else seen & attending.mask[:, None, None, -keys:].bool()


def _picked(values: Tensor, wanted: Int[Tensor, "batch wanted"]) -> Tensor:
    """The rows of `(batch, heads, queries, …)` at the wanted queries."""
    return values.gather(2, wanted[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[-1]))

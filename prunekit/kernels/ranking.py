"""Ranking with no surprises: one packed key a token, so that ties always fall to the lowest index.

`topk`, `argsort` and `argmax` order ties as they please and put NaN first. The key is an int64: 32 bits of
score in an order-preserving form, then 24 bits of reversed index. No two tokens of a sample share a key, so
any sort on any device gives the same order.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

INDEX_BITS = 24
NEVER = torch.iinfo(torch.int64).min
"""The key of a token that must not be taken."""


def packed_key(
    scores: Float[Tensor, "batch tokens"], eligible: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"]:
    """One sortable key a token: by score in float32, ties by lowest index, NaN below everything.

    -0.0 ties with 0.0. Tokens that are not eligible get `NEVER`.
    """
    count = scores.shape[-1]
    if count >= 1 << INDEX_BITS:
        raise ValueError(f"{count} tokens in one sample; a packed key holds 2^{INDEX_BITS}.")
    clean = scores.float() + 0.0
    bits = clean.contiguous().view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    ordered = ordered.masked_fill(clean.isnan(), torch.iinfo(torch.int32).min)
    reversed_index = torch.arange(count - 1, -1, -1, device=scores.device)
    key = (ordered.long() << INDEX_BITS) | reversed_index
    return key.masked_fill(~eligible, NEVER)


def ahead(
    key: Int[Tensor, "batch tokens"], first: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"]:
    """The keys with those of `first` above all others, and else the order they were in."""
    return torch.where(first & (key != NEVER), key + (1 << (32 + INDEX_BITS)), key)


def descending(key: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """Token indices from the best key to the worst."""
    return key.argsort(dim=-1, descending=True, stable=True)


def take(key: Int[Tensor, "batch tokens"], room: Int[Tensor, " batch"]) -> Bool[Tensor, "batch tokens"]:
    """The `room` tokens of each sample with the highest keys, never one whose key is `NEVER`."""
    order = descending(key)
    rank = torch.arange(key.shape[-1], device=key.device)
    wanted = (rank < room[:, None]) & (key.gather(-1, order) != NEVER)
    return torch.zeros_like(wanted).scatter(-1, order, wanted)


def best(
    scores: Float[Tensor, "batch tokens"],
    eligible: Bool[Tensor, "batch tokens"],
    room: Int[Tensor, " batch"],
) -> Bool[Tensor, "batch tokens"]:
    """The `room` best eligible tokens of each sample, all of them where fewer are eligible."""
    return take(packed_key(scores, eligible), room)

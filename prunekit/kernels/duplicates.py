"""Duplicates dropped a few at a time, until what is left fits.

The tokens stand in a queue. Those at even places are compared with those at odd ones, and the few with the
nearest look-alike are dropped; the even ones left, nearest first, and the odd ones behind them are the next
queue, so that who is compared with whom changes.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.greedy import Single, Task, one_by_one
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.ranking import descending, packed_key


def without_duplicates(
    alike: Likeness, task: Task, key: Int[Tensor, "batch tokens"], at_once: int
) -> Bool[Tensor, "batch tokens"]:
    """Adds the eligible tokens that are left when duplicates are dropped until there is room for all.

    Args:
        alike: How alike tokens are.
        task: What is asked.
        key: Who stands first in the queue: the highest.
        at_once: How many are dropped between two looks.

    Returns:
        The tokens added, without those kept before.
    """
    if task.engine == "device":
        return _on_device(alike, task, key, at_once)
    return one_by_one(task, lambda one: _on_host(alike, one, key, at_once))


def _on_host(alike: Likeness, one: Single, key: Tensor, at_once: int) -> list[int]:
    """The tokens of one sample that are left."""
    matrix = alike.among(one.sample, one.places)
    queue = np.flatnonzero(one.eligible)
    queue = queue[one.of(key)[queue].argsort()[::-1]]
    while len(queue) > one.room:
        even, odd = queue[::2], queue[1::2]
        nearest = matrix[np.ix_(even, odd)].max(1)
        dropped = min(at_once, len(queue) - one.room, len(even))
        queue = np.concatenate([even[(-nearest).argsort(kind="stable")[dropped:]], odd])
    return queue.tolist()


def _on_device(alike: Likeness, task: Task, key: Tensor, at_once: int) -> Tensor:
    """All samples in step, each until it fits."""
    tokens = key.shape[-1]
    if not tokens:
        return task.kept
    matrix, place = alike.matrix(), torch.arange(tokens, device=key.device)
    queue, length = (
        descending(key.masked_fill(~task.eligible, torch.iinfo(key.dtype).min)),
        task.eligible.sum(-1),
    )
    for _ in range(tokens // at_once + at_once.bit_length() + 1):
        surplus = (length - task.room).clamp(min=0)
        evens = (length + 1) // 2
        dropped = surplus.clamp(max=at_once).minimum(evens)[:, None]
        live = place < length[:, None]
        even, odd = live & (place % 2 == 0), live & (place % 2 == 1)
        opposite = torch.zeros_like(odd).scatter(-1, queue, odd)
        nearest = matrix.masked_fill(~opposite[:, None], -torch.inf).amax(-1).gather(-1, queue)
        rank = descending(packed_key(nearest, even)).argsort(-1)
        after = torch.where(odd, evens[:, None] - dropped + place // 2, tokens)
        after = torch.where(even & (rank >= dropped), rank - dropped, after)
        after = torch.where(dropped > 0, after, place)
        queue, length = queue.gather(-1, after.argsort(dim=-1, stable=True)), length - dropped[:, 0]
    left = place < length.minimum(task.room)[:, None]
    return torch.zeros_like(left).scatter(-1, queue, left) & task.eligible

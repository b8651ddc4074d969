"""Farthest point and marginal relevance, greedily: worth much, and little like anything taken so far.

What a token would bring is its worth less its largest likeness to what is taken. A token just taken can only
lower that, by itself: one row of likenesses a step, and a running minimum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from prunekit.kernels.greedy import Single, Task, one_by_one
from prunekit.kernels.likeness import Likeness, Values
from prunekit.kernels.ranking import packed_key

WORTH_LIMIT = 1e30
"""Worth beyond it counts as it. NaN is worth less still, so little that likeness is lost beside it."""


def farthest(
    alike: Likeness,
    task: Task,
    *,
    first: Float[Tensor, "batch tokens"] | None = None,
    worth: Float[Tensor, "batch tokens"] | None = None,
    repulsion: float = 1.0,
    at_once: int = 1,
) -> Bool[Tensor, "batch tokens"]:
    """Adds tokens, each the eligible one of the largest `worth - repulsion · max likeness to the kept`.

    Ties fall to the lowest index, and NaN ranks last. Where nothing is kept yet, the best by `first` comes
    first; without `first`, the token whose nearest other is least like it.

    Args:
        alike: How alike tokens are.
        task: What is asked.
        first: Who comes first.
        worth: What tokens are worth by themselves; the same for all by default, which is farthest point.
        repulsion: How much likeness counts beside worth; 0 or more.
        at_once: How many are taken before likeness to them counts.

    Returns:
        The tokens added, without those kept before.
    """
    base = torch.zeros_like(task.kept, dtype=torch.float32) if worth is None else worth.float()
    base = base.clamp(-WORTH_LIMIT, WORTH_LIMIT).nan_to_num(-2 * WORTH_LIMIT)
    base = base.masked_fill(~task.eligible, -torch.inf)
    opening = None if first is None else packed_key(first, task.eligible)
    if task.engine == "device":
        return _on_device(alike, task, base, opening, repulsion=repulsion, at_once=at_once)
    return one_by_one(
        task, lambda one: _on_host(alike, one, base, opening, repulsion=repulsion, at_once=at_once)
    )


def _on_host(
    alike: Likeness, one: Single, base: Tensor, opening: Tensor | None, *, repulsion: float, at_once: int
) -> list[int]:
    """The tokens of one sample, in the order they are taken."""
    worth: Values = one.of(base)
    kept = one.kept
    if kept or opening is not None:
        row = alike.row(one.sample, one.places, len(kept) + one.room)
        start = worth if opening is None else one.of(opening)
    else:
        matrix = alike.among(one.sample, one.places)
        row, start = matrix.__getitem__, -_nearest(matrix)
    gain = np.full_like(worth, np.inf)
    for token in kept:
        np.minimum(gain, worth - repulsion * row(token), out=gain)
    taken: list[int] = []
    while len(taken) < one.room:
        newest = _largest(gain if kept or taken else start, min(at_once, one.room - len(taken)))
        taken += newest
        worth[newest] = -np.inf
        for token in newest:
            np.minimum(gain, worth - repulsion * row(token), out=gain)
    return taken


def _largest(values: NDArray[Any], count: int) -> list[int]:
    """The indices of the largest, ties by lowest index."""
    if count == 1:
        return [int(values.argmax())]
    rising = len(values) - 1 - values[::-1].argsort(kind="stable")
    return rising[::-1][:count].tolist()


def _nearest(matrix: Values, block: int = 64) -> Values:
    """For each token its likeness to the nearest other; -∞ for a single one."""
    nearest = np.empty(len(matrix), np.float32)
    for first in range(0, len(matrix), block):
        rows = matrix[first : first + block].copy()
        np.fill_diagonal(rows[:, first:], -np.inf)
        nearest[first : first + block] = rows.max(-1)
    return nearest


def _on_device(
    alike: Likeness, task: Task, base: Tensor, opening: Tensor | None, *, repulsion: float, at_once: int
) -> Tensor:
    """All samples in step."""
    kept, eligible = task.kept, task.eligible
    if not kept.numel():
        return kept
    matrix, samples = alike.matrix(), torch.arange(len(kept), device=kept.device)[:, None]
    if opening is None:
        strangers = ~eligible[:, None] | torch.eye(kept.shape[-1], dtype=torch.bool, device=kept.device)
        opening = packed_key(-matrix.masked_fill(strangers, -torch.inf).amax(-1), eligible)
    beside = base[:, None] - repulsion * matrix
    gain = beside.masked_fill(~kept[..., None], torch.inf).amin(1)
    newest = torch.where(kept.any(-1, keepdim=True), _first(gain, at_once), _first(opening, at_once))
    places = [*newest.unbind(-1)]
    while len(places) < task.most:
        gain = gain.minimum(beside[samples, newest].amin(1)).scatter(-1, newest, -torch.inf)
        newest = _first(gain, at_once)
        places += newest.unbind(-1)
    return task.mask_of(places)


def _first(values: Tensor, count: int) -> Int[Tensor, "batch count"]:
    """The indices of the largest of each sample, ties by lowest index."""
    if count == 1:
        return values.argmax(-1, keepdim=True)
    return values.argsort(dim=-1, descending=True, stable=True)[:, :count]

"""Matching of two halves: tokens alternate between them, and those of one most like some of the other go.

One round can take half of the tokens at most, so there may be several.
"""

from __future__ import annotations

from math import ceil, log2

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.kernels.greedy import Task
from prunekit.kernels.ranking import best


def halved(
    alike: Float[Tensor, "batch tokens tokens"],
    task: Task,
) -> tuple[Bool[Tensor, "batch tokens"], Bool[Tensor, " batch"]]:
    """The tokens that stay, and for which samples they are as few as there is room for, though at least one.

    In a round the tokens left, one after another, go to the first and the second half in turn. Of the first
    those go that are most like their nearest of the second, ties by lowest index, as many as there are too
    many, but no more than the second half has. Where the first half holds kept tokens alone, the second goes
    in its place. On accelerators there are as many rounds as halving takes, and one more.

    Args:
        alike: How alike tokens are.
        task: What is asked; the tokens it keeps take part, and stay.
    """
    left = task.kept | task.eligible
    goal = (task.kept.sum(-1) + task.room).clamp(min=1)
    rounds = ceil(log2(max(left.shape[-1], 1) / max(task.most, 1))) + 1
    surplus = left.sum(-1) - goal
    while rounds > 0 if task.engine == "device" else bool((surplus > 0).any()):
        left = left & ~_leaving(alike, left, task.kept, surplus.clamp(min=0))
        surplus = left.sum(-1) - goal
        rounds -= 1
    return left, surplus <= 0


def _leaving(
    alike: Float[Tensor, "batch tokens tokens"],
    left: Bool[Tensor, "batch tokens"],
    kept: Bool[Tensor, "batch tokens"],
    surplus: Int[Tensor, " batch"],
) -> Bool[Tensor, "batch tokens"]:
    """The tokens that go in one round."""
    first = left & (left.cumsum(-1) % 2 == 1)
    second = left & ~first
    settled = ~(first & ~kept).any(-1, keepdim=True)
    source, target = torch.where(settled, second, first), torch.where(settled, first, second)
    nearest = alike.masked_fill(~target[:, None], -torch.inf).amax(-1)
    return best(nearest, source & ~kept, surplus.minimum(target.sum(-1)))

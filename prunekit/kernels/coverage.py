"""Coverage, greedily: the token that makes the most of what is not covered yet.

A token is covered as far as the one most like it among those taken. What a token would add only shrinks as
others are taken (the gain is submodular), so on the host a gain computed earlier is a bound: the largest
bounds are computed anew, until the largest is up to date and so the best (lazy evaluation, Minoux 1978).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from prunekit.kernels.greedy import Single, Task, one_by_one
from prunekit.kernels.likeness import Likeness, Values

AHEAD = 16
"""How many of the largest bounds are computed anew together."""

TIED = 1e-6
"""A gain is known this well, as a share of it: who comes as near to the best as this is tied with it."""

UNKNOWN = -1.0
"""The gain of a token of weight NaN: less than any other."""


def coverage(
    alike: Likeness,
    task: Task,
    *,
    weight: Float[Tensor, "batch tokens"],
) -> Bool[Tensor, "batch tokens"]:
    """Adds tokens j, each the eligible one of the largest `weight_j · sum_i max(0, s_ij - covered_i)`.

    `covered_i` is the largest likeness of token i to what is taken, at least 0. Ties, to what float32
    can tell, fall to the lowest index, and a weight of NaN ranks last.

    Args:
        alike: How alike tokens are.
        task: What is asked.
        weight: What tokens are worth, 0 or more and not so large that a sum overflows.

    Returns:
        The tokens added, without those kept before.
    """
    if task.engine == "device":
        return _on_device(alike, task, weight.float())
    return one_by_one(task, lambda one: _on_host(alike, one, weight.float()))


def _on_host(alike: Likeness, one: Single, weights: Tensor) -> list[int]:
    """The tokens of one sample, in the order they are taken."""
    weight: Values = one.of(weights)
    matrix = alike.among(one.sample, one.places)
    covered = matrix[one.kept].max(0, initial=0)

    def gain(tokens: NDArray[np.intp] | slice) -> Values:
        return weight[tokens] * np.maximum(matrix[tokens] - covered, 0).sum(-1)

    blocks = [gain(slice(first, first + AHEAD)) for first in range(0, len(weight), AHEAD)]
    bound = np.nan_to_num(np.concatenate(blocks), nan=UNKNOWN)
    bound[~one.eligible] = -np.inf
    known = np.zeros(len(bound), np.intp)
    taken: list[int] = []
    while len(taken) < one.room:
        best = bound.max()
        tied = np.flatnonzero(bound >= best - TIED * abs(best))
        stale = tied[(known[tied] < len(taken)) & (bound[tied] != UNKNOWN)]
        if not len(stale):
            token = int(tied[0])
            taken.append(token)
            bound[token] = -np.inf
            np.maximum(covered, matrix[token], out=covered)
            continue
        few = bound.argpartition(-min(AHEAD, len(bound)))[-AHEAD:]
        few = np.union1d(few[bound[few] >= 0], stale[:AHEAD])
        bound[few] = gain(few)
        known[few] = len(taken)
    return taken


def _on_device(alike: Likeness, task: Task, weight: Tensor) -> Tensor:
    """All samples in step, every gain computed at every step."""
    if not task.kept.numel():
        return task.kept
    matrix, samples = alike.matrix(), torch.arange(len(task.kept), device=weight.device)
    covered = matrix.masked_fill(~task.kept[:, None], 0).amax(-1).clamp(min=0)
    covered = covered.masked_fill(~(task.kept | task.eligible), torch.inf)
    least = torch.where(weight.isnan(), UNKNOWN, 0).masked_fill(~task.eligible, -torch.inf)
    weight = weight.nan_to_num(0)
    places: list[Tensor] = []
    for _ in range(task.most):
        new = (matrix - covered[:, None]).clamp_(min=0).sum(-1)
        worth = torch.addcmul(least, weight, new)
        best = worth.amax(-1, keepdim=True)
        places.append((worth >= best - TIED * best.abs()).byte().argmax(-1))
        least = least.scatter(-1, places[-1][:, None], -torch.inf)
        covered = covered.maximum(matrix[samples, places[-1]])
    return task.mask_of(places)

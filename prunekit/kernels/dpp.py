"""The greedy most likely set of a determinantal point process: worthy tokens that span a large volume.

The kernel is L = r_i · s_ij · r_j, of relevance and likeness. Greedy maximisation (Chen et al., NeurIPS 2018,
arXiv:1709.05135) is the Cholesky factorisation of L with the largest pivot first. The difference is that s is
factorised and not L: the relevances are factors of the pivots alone. So how much of a token is new, its
residual, lies in [0, 1] whatever its relevance, and it is plain when nothing new is left.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import threshold

from prunekit.kernels.greedy import Single, Task, one_by_one
from prunekit.kernels.likeness import Likeness, Values
from prunekit.kernels.ranking import best

EXHAUSTED = 1e-5
"""A token with no larger residual lies in the span of those taken: what is left is rounding."""

TIED = 1e-6
"""A residual is known this well: who comes as near to the best as this is tied with it."""


def dpp(
    alike: Likeness,
    task: Task,
    *,
    scores: Float[Tensor, "batch tokens"],
    relevance: Float[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, "batch tokens"]:
    """Adds tokens, each the eligible one of the largest `relevance² · residual` given all before it.

    What is kept is conditioned on first. Ties fall to the lowest index. Where every token left is in the
    span of those taken, or of no relevance, the best by `scores` fill up: NaN last, ties by lowest index.

    Args:
        alike: How alike tokens are; of the cosine, or positive semi-definite with a diagonal of 0 or 1.
        task: What is asked.
        scores: Who fills up.
        relevance: What tokens are worth; the same for all by default. NaN and 0 only fill up.

    Returns:
        The tokens added, without those kept before.
    """
    weight = torch.ones_like(scores, dtype=torch.float32) if relevance is None else relevance.float().square()
    worthy = task.eligible & (weight > 0)
    weight = weight.masked_fill(~worthy, 1)
    residual = alike.diagonal().masked_fill(~(worthy | task.kept), -torch.inf)
    if task.engine == "device":
        added = _on_device(alike, task, residual, weight)
    else:
        added = one_by_one(task, lambda one: _on_host(alike, one, residual, weight))
    left = task.room - added.sum(-1)
    if task.engine == "host" and not left.any():
        return added
    return added | best(scores, task.eligible & ~added, left)


def _on_host(alike: Likeness, one: Single, residuals: Tensor, weights: Tensor) -> list[int]:
    """The tokens of one sample, in the order they are taken, until no residual is left."""
    kept = one.kept
    steps = len(kept) + one.room
    row = alike.row(one.sample, one.places, steps)
    residual: Values = one.of(residuals)
    weight: Values = one.of(weights)
    factor = np.zeros((steps, len(residual)), np.float32)
    taken: list[int] = []
    for step in range(steps):
        token = kept[step] if step < len(kept) else _best(residual, weight)
        pivot = residual.item(token)
        if pivot > EXHAUSTED:
            new = factor[step]
            np.subtract(row(token), factor[:step, token].dot(factor[:step]), out=new)
            new /= math.sqrt(pivot)
            residual -= new * new
            residual[token] = -np.inf
            if step >= len(kept):
                taken.append(token)
        elif step >= len(kept):
            break
    return taken


def _best(residual: Values, weight: Values) -> int:
    """The token to take; an exhausted one if all are. They are only looked for once one of them would win."""
    gain = weight * residual
    top = int(gain.argmax())
    token = int((gain >= weight.item(top) * (residual.item(top) - TIED)).argmax())
    if min(residual.item(token), residual.item(top)) > EXHAUSTED or residual.item(top) == -math.inf:
        return token
    residual[residual <= EXHAUSTED] = -np.inf
    return _best(residual, weight)


@torch.no_grad()
def _on_device(alike: Likeness, task: Task, residual: Tensor, weight: Tensor) -> Tensor:
    """All samples in step, those kept in a sample before those taken."""
    kept, most = task.kept, min(task.most, task.kept.shape[-1])
    matrix, slack = alike.matrix(), TIED * weight
    samples, turns = torch.arange(len(kept), device=kept.device), task.turns(most)
    before = kept.sum(-1, keepdim=True)
    conditioning, queue = turns < before, (~kept).byte().argsort(dim=-1, stable=True)
    factor = residual.new_zeros(len(kept), most, kept.shape[-1])
    places: list[Tensor] = []
    pivots: list[Tensor] = []
    for step in range(most):
        residual = threshold(residual, EXHAUSTED, -torch.inf)
        gain = weight * residual
        largest, top = gain.max(-1, keepdim=True)
        tied = gain >= largest - slack.gather(-1, top)
        first = tied.view(torch.uint8).argmax(-1)
        place = torch.where(conditioning[:, step], queue[:, step], first)
        pivot = residual[samples, place]
        row, known = matrix[samples, place, None], factor[samples, :step, place, None].mT
        new = torch.baddbmm(row, known, factor[:, :step], alpha=-1)[:, 0]
        # What is exhausted has a pivot of -∞, so that nothing is new in it.
        torch.div(new, pivot.abs().sqrt()[:, None], out=factor[:, step])
        residual = residual.addcmul(factor[:, step], factor[:, step], value=-1)
        residual = residual.scatter(-1, place[:, None], -torch.inf)
        places.append(place)
        pivots.append(pivot)
    if not places:
        return torch.zeros_like(kept)
    in_turn = ~conditioning & (turns < before + task.room[:, None])
    return task.mask_of(places, in_turn & (torch.stack(pivots, -1) > 0))

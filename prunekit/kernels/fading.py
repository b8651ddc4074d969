"""Soft suppression, greedily: the best token is taken, and the worth of its look-alikes fades."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunekit.kernels.greedy import Single, Task, one_by_one
from prunekit.kernels.likeness import Likeness, Values
from prunekit.kernels.scaling import widest


def fading(
    alike: Likeness, task: Task, *, worth: Float[Tensor, "batch tokens"], sharpness: float
) -> Bool[Tensor, "batch tokens"]:
    """Adds tokens, each the eligible one of the largest worth left, ties by lowest index, NaN last.

    A token t that is taken lowers that of every other by `worth_t · exp(-sharpness · (1 - likeness)²)`, never
    below 0. Those kept before do so first, with the worth they have by themselves.

    Args:
        alike: How alike tokens are.
        task: What is asked.
        worth: What tokens are worth by themselves, 0 or more.
        sharpness: How fast fading ends with likeness.

    Returns:
        The tokens added, without those kept before.
    """
    known = worth.float().nan_to_num(-1)
    if task.engine == "device":
        return _on_device(alike, task, known, sharpness)
    return one_by_one(task, lambda one: _on_host(alike, one, known, sharpness))


def _on_host(alike: Likeness, one: Single, worth: Tensor, sharpness: float) -> list[int]:
    """The tokens of one sample, in the order they are taken."""
    kept = one.kept
    row = alike.row(one.sample, one.places, len(kept) + one.room)
    left: Values = one.of(worth)
    unknown = left < 0
    whole = left.copy()

    def fade(token: int, by: float) -> None:
        apart = 1 - row(token).astype(np.float64)
        fallen = left - by * np.exp(-sharpness * apart * apart).astype(np.float32)
        np.copyto(left, np.maximum(fallen, 0), where=~unknown)

    for token in kept:
        fade(token, max(float(whole[token]), 0.0))
    taken: list[int] = []
    while len(taken) < one.room:
        token = int(np.where(one.eligible, left, -np.inf).argmax())
        taken.append(token)
        one.eligible[token] = False
        fade(token, max(float(left[token]), 0.0))
    return taken


def _on_device(alike: Likeness, task: Task, worth: Tensor, sharpness: float) -> Tensor:
    """All samples in step."""
    kept, free = task.kept, task.eligible
    if not kept.numel():
        return kept
    apart = 1 - alike.matrix().to(widest(worth.device))
    fall, samples = (-sharpness * apart.square()).exp().float(), torch.arange(len(kept), device=kept.device)
    least = torch.where(worth < 0, -1.0, 0.0)
    gone = (worth.clamp(min=0).masked_fill(~kept, 0)[:, None] * fall).sum(-1)
    left = (worth - gone).maximum(least)
    places: list[Tensor] = []
    for _ in range(task.most):
        place = left.masked_fill(~free, -torch.inf).argmax(-1)
        places.append(place)
        free = free.scatter(-1, place[:, None], False)
        by = left[samples, place].clamp(min=0)[:, None]
        left = (left - by * fall[samples, place]).maximum(least)
    return task.mask_of(places)

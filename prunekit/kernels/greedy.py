"""What selectors share that take one token after another: samples one by one, and picks as a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from prunekit.kernels.engine import Engine


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a greedy selector is asked.

    Attributes:
        kept: The tokens kept so far.
        eligible: The tokens that may be added.
        room: How many to add to each sample.
        most: No sample keeps more than this in the end, what is kept so far included.
        engine: How to run.
    """

    kept: Bool[Tensor, "batch tokens"]
    eligible: Bool[Tensor, "batch tokens"]
    room: Int[Tensor, " batch"]
    most: int
    engine: Engine

    def mask_of(
        self, places: Sequence[Int[Tensor, " batch"]], wanted: Bool[Tensor, "batch steps"] | None = None
    ) -> Bool[Tensor, "batch tokens"]:
        """The mask of what was taken step by step, where it was wanted: by default while there was room."""
        beyond = self.eligible.shape[-1]
        mask = self.eligible.new_zeros(len(self.eligible), beyond + 1)
        if places:
            taken = torch.stack(list(places), -1)
            wanted = self.turns(len(places)) < self.room[:, None] if wanted is None else wanted
            mask = mask.scatter(-1, torch.where(wanted, taken, beyond), True)
        return mask[:, :-1] & self.eligible

    def turns(self, steps: int) -> Int[Tensor, " steps"]:
        """The steps, counted from 0."""
        return torch.arange(steps, device=self.room.device)


@dataclass(frozen=True, slots=True, eq=False)
class Single:
    """One sample, on the host. Tokens are counted among its kept and eligible ones alone.

    Attributes:
        sample: The index of the sample.
        places: Where its kept and eligible tokens are, ascending.
        eligible: Whether each of them may be taken.
        room: How many to take; never more than are eligible.
    """

    sample: int
    places: NDArray[np.intp]
    eligible: NDArray[np.bool_]
    room: int

    @property
    def kept(self) -> list[int]:
        """Those that are kept already, ascending."""
        return np.flatnonzero(~self.eligible).tolist()

    def of(self, values: Tensor) -> NDArray[Any]:
        """What `values[batch, tokens]` say of these tokens, as a copy."""
        return values[self.sample].numpy(force=True)[self.places]


def one_by_one(task: Task, take: Callable[[Single], list[int]]) -> Bool[Tensor, "batch tokens"]:
    """The mask of what is taken from each sample that has room."""
    free = task.eligible.numpy(force=True)
    known = free | task.kept.numpy(force=True)
    added = np.zeros_like(free)
    for sample, wanted in enumerate(task.room.tolist()):
        places = known[sample].nonzero()[0]
        among = free[sample, places]
        most = min(wanted, int(among.sum()))
        if most:
            added[sample, places[take(Single(sample, places, among, most))]] = True
    return torch.from_numpy(added).to(task.kept.device)

"""What all ways of walking share: what is asked of a graph, where a walk is, and what it took."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prunekit.kernels.known import Known, Pick
from prunekit.kernels.ranking import NEVER, descending


@runtime_checkable
class Web(Protocol):
    """All that a walk asks of a graph: what it must know of tokens, and who of two such sets is joined."""

    @property
    def reach(self) -> int | None: ...

    def known(self, pick: Pick) -> Known: ...

    def joins(self, rows: Known, columns: Known) -> Tensor: ...


class Independent(NamedTuple):
    """What a walk took.

    Attributes:
        taken: The tokens.
        exact: Whether they are the textbook's; where not, they are independent, and each of them would be
            taken if there were room for all.
    """

    taken: Bool[Tensor, "batch tokens"]
    exact: Bool[Tensor, " batch"]


class Walk:
    """Where a walk over the candidates of a batch is: which samples still go on, and what they took."""

    def __init__(self, key: Int[Tensor, "batch tokens"], room: Int[Tensor, " batch"]) -> None:
        self.order = descending(key)
        self._count = (key != NEVER).sum(-1)
        self._taken = torch.zeros_like(key, dtype=torch.bool)
        self._start = 0
        self.samples = ((room > 0) & (self._count > 0)).nonzero().squeeze(-1)
        self.left = room[self.samples]

    @property
    def going(self) -> bool:
        """Whether any sample still has room and candidates."""
        return len(self.samples) > 0

    @property
    def result(self) -> Independent:
        """What was taken; a walk to its end is exact."""
        return Independent(self._taken, torch.ones_like(self._count, dtype=torch.bool))

    def next(self, block: int) -> tuple[Int[Tensor, "going block"], Bool[Tensor, "going block"]]:
        """The next candidates of the samples that go on, and which of them are real."""
        rows = self.order[self.samples, self._start : self._start + block]
        ordinal = torch.arange(self._start, self._start + rows.shape[-1], device=rows.device)
        self._start += block
        return rows, ordinal < self._count[self.samples, None]

    def take(
        self, rows: Int[Tensor, "going some"], taken: Bool[Tensor, "going some"]
    ) -> Int[Tensor, " still"] | None:
        """Notes what was taken. Gives which of the samples still go on, as indices, or None for all."""
        self._taken[self.samples[:, None], rows] |= taken
        self.left = self.left - taken.sum(-1)
        going = (self.left > 0) & (self._start < self._count[self.samples])
        if bool(going.all()):
            return None
        still = going.nonzero().squeeze(-1)
        self.samples, self.left = self.samples[still], self.left[still]
        return still

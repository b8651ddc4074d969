"""Where the visual tokens of a prompt stand: by token id, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from prunekit.hf.slots import Slots

ID_NAMES = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


def visual_token_ids(config: Any) -> tuple[int, ...]:
    """The ids that stand for visual features in `input_ids`; empty for a model without eyes."""
    ids = (getattr(config, name, None) for name in ID_NAMES)
    return tuple(sorted({token for token in ids if isinstance(token, int)}))


def is_visual(input_ids: Int[Tensor, "batch length"], ids: Sequence[int]) -> Bool[Tensor, "batch length"]:
    """True where a token id is one of `ids`."""
    return torch.isin(input_ids, torch.tensor(ids, device=input_ids.device))


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The visual tokens of each row, padded at the end to those of the row with most.

    Attributes:
        index: The column of each visual token among the new tokens, ascending; 0 where padded.
        present: False marks padding.
        runs: For each row the lengths of its unbroken runs of visual tokens, in order.
    """

    index: Int[Tensor, "batch tokens"]
    present: Bool[Tensor, "batch tokens"]
    runs: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, visual: Bool[Tensor, "batch length"]) -> Places:
        """The places marked by a mask. Reads the mask on the host, once a prompt."""
        columns = [_true_columns(row) for row in visual.tolist()]
        most = max(map(len, columns), default=0)
        index = [row + [0] * (most - len(row)) for row in columns]
        present = [[True] * len(row) + [False] * (most - len(row)) for row in columns]
        return cls(
            torch.tensor(index, dtype=torch.long, device=visual.device),
            torch.tensor(present, dtype=torch.bool, device=visual.device),
            tuple(_run_lengths(row) for row in columns),
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """How many visual tokens each row has."""
        return tuple(sum(row) for row in self.runs)

    def within(self, slots: Slots, length: int) -> Places:
        """The places of the same tokens among those that go on; absent where they do not.

        Args:
            slots: Which columns go on.
            length: How many columns there are.
        """
        gone = ~slots.marks(length).gather(1, self.index)
        return replace(self, index=slots.slots_of(self.index, length), present=self.present & ~gone)

    def pick(self, values: Shaped[Tensor, "batch ... length"]) -> Shaped[Tensor, "batch ... tokens"]:
        """Of values along the columns, those of the visual tokens; 0 where padded."""
        lead = (slice(None), *(None,) * (values.ndim - 2))
        index = self.index[lead].expand(*values.shape[:-1], -1)
        return values.gather(-1, index).masked_fill(~self.present[lead], 0)

    def put(
        self,
        states: Float[Tensor, "batch length dim"],
        values: Float[Tensor, "batch tokens dim"],
        where: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch length dim"]:
        """The states with those of some present tokens replaced."""
        batch, length, dim = states.shape
        own = where & self.present
        index = self.index.masked_fill(~own, length).to(states.device)  # what is not put lands behind
        wider = torch.cat([states, states.new_zeros(batch, 1, dim)], 1)
        index = index[..., None].expand(-1, -1, dim)
        return wider.scatter(1, index, values.to(states))[:, :length]

    def mark(self, chosen: Bool[Tensor, "batch tokens"], length: int) -> Bool[Tensor, "batch length"]:
        """A mask over the columns that is True where a chosen visual token stands."""
        marks = torch.zeros(len(self.runs), length, dtype=torch.long, device=self.index.device)
        return marks.scatter_add(1, self.index, (chosen & self.present).long()).bool()


def _true_columns(row: Sequence[bool]) -> list[int]:
    return [column for column, marked in enumerate(row) if marked]


def _run_lengths(columns: Sequence[int]) -> tuple[int, ...]:
    if not columns:
        return ()
    breaks = [at for at, (a, b) in enumerate(pairwise(columns), start=1) if b != a + 1]
    return tuple(stop - start for start, stop in pairwise([0, *breaks, len(columns)]))

"""What is told of the pictures of a prompt: to the forward, or to `generate` before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

Row = TypeVar("Row")

PIXELS = ("pixel_values", "pixel_values_videos")
"""The arguments that hold pictures themselves."""

PROMPTS = ("input_ids", "inputs", "inputs_embeds")
"""The arguments of `generate` that hold a row for each prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The arguments that describe pictures: `pixel_values`, `image_grid_thw`, …

    From transformers 5.2x on, `generate` runs the vision tower itself and passes its outcome to the forward,
    which then sees neither pixels nor grids; what `generate` was given still tells. It may also repeat rows,
    for beams or several answers, but what it was given names each picture once.

    Attributes:
        inputs: Arguments by name.
        copies: How many rows in a row of the batch stand for one row of the arguments.
    """

    inputs: Mapping[str, Any]
    copies: int = 1

    @classmethod
    def of(cls, inputs: Mapping[str, Any], asked: Mapping[str, Any] | None, batch: int) -> Pictures:
        """What a forward's arguments tell, or those of the `generate` it belongs to.

        Args:
            inputs: The arguments of the forward.
            asked: Those of `generate`; None outside of it.
            batch: How many rows the forward has.
        """
        if asked is None or any(inputs.get(name) is not None for name in PIXELS):
            return cls(inputs)
        prompts = (asked.get(name) for name in PROMPTS)
        rows = next((len(prompt) for prompt in prompts if isinstance(prompt, Tensor)), batch)
        copies = batch // rows if rows and batch % rows == 0 else 1
        given = {name: value for name, value in inputs.items() if value is not None}
        if "input_ids" in given:
            given["input_ids"] = given["input_ids"][::copies]
        return cls({**asked, **given}, copies)

    def once(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """Of the rows of the batch, one for each row of the arguments."""
        return tuple(rows[:: self.copies])

    def repeated(self, rows: Sequence[Row]) -> list[Row]:
        """For each row of the arguments, the rows of the batch that stand for it."""
        return [row for row in rows for _ in range(self.copies)]

"""How visual tokens lie in their images: the plane, row and column of each.

A model lines its visual tokens up in one sequence; a graph over neighbours needs them back on their
grid. Only this differs from family to family, so this is all an `Adapter` has to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from prunekit.errors import TokenError

Runs = tuple[tuple[int, ...], ...]
"""For each row of a batch the lengths of its unbroken runs of visual tokens, in order."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Visual tokens that follow each other in raster order: so many planes of rows × columns."""

    rows: int
    columns: int
    planes: int = 1

    @property
    def size(self) -> int:
        """How many tokens lie on it."""
        return self.planes * self.rows * self.columns


@runtime_checkable
class Adapter(Protocol):
    """What prunekit cannot know about a model family by itself: the grids of its visual tokens."""

    def fits(self, config: Any) -> bool:
        """Whether this adapter speaks for models of this configuration."""
        ...

    def grids(self, runs: Runs, inputs: Mapping[str, Any], config: Any) -> Sequence[Sequence[Grid]]:
        """For each row the grids that together hold its visual tokens, in order.

        Args:
            runs: The lengths of the unbroken runs of visual tokens, row by row.
            inputs: The arguments of the model's forward: `pixel_values`, `image_grid_thw`, …
            config: The configuration of the model.
        """
        ...


class GenericAdapter:
    """The rule for every family that keeps to one of the common layouts.

    1. `image_grid_thw` or `video_grid_thw` say it (Qwen-VL): divided by `spatial_merge_size`.
    2. Otherwise a run is cut into images of equal size (adjacent images share one run, for nothing
       stands between them), known from the number of images in `pixel_values`, or else from the
       configuration; an image with a square number of tokens is a square.
    3. What is left is one row. Such a run has features of several sizes or line breaks among its
       tokens (LLaVA-NeXT, LLaVA-OneVision), and a wrong grid would make neighbours of strangers.
    """

    def fits(self, config: Any) -> bool:
        """Any model."""
        del config
        return True

    def grids(self, runs: Runs, inputs: Mapping[str, Any], config: Any) -> Sequence[Sequence[Grid]]:
        """See `Adapter.grids`."""
        told = _told_grids(runs, inputs, config)
        if told is not None:
            return told
        size = _image_size(runs, inputs, config)
        return [[grid for run in row for grid in _cut(run, size)] for row in runs]


def positions_on(
    grids: Sequence[Sequence[Grid]], counts: Sequence[int], device: torch.device
) -> Int[Tensor, "batch tokens 3"]:
    """`(plane, row, column)` of each visual token; (0, 0, 0) where a row is padded at its end.

    Planes are numbered from 0 in each row, in order of appearance.

    Raises:
        TokenError: The grids of a row do not hold exactly its visual tokens.
    """
    _check(grids, counts)
    positions = torch.zeros(len(grids), max(counts, default=0), 3, dtype=torch.long)
    for row, (lie, count) in enumerate(zip(grids, counts, strict=True)):
        positions[row, :count] = _raster(lie)
    return positions.to(device)


def plane_grids(grids: Sequence[Sequence[Grid]]) -> list[Grid]:
    """Every plane of the batch as a grid of its own, in order."""
    return [Grid(grid.rows, grid.columns) for row in grids for grid in row for _ in range(grid.planes)]


def _check(grids: Sequence[Sequence[Grid]], counts: Sequence[int]) -> None:
    sizes = [sum(grid.size for grid in row) for row in grids]
    if sizes != list(counts):
        raise TokenError(
            f"The grids of the visual tokens hold {sizes} tokens a row, the prompt has {list(counts)}. "
            "The adapter of this model family does not fit its inputs."
        )


def _raster(grids: Sequence[Grid]) -> Int[Tensor, "tokens 3"]:
    parts: list[Tensor] = [torch.zeros(0, 3, dtype=torch.long)]
    first = 0
    for grid in grids:
        planes = torch.arange(first, first + grid.planes)
        parts.append(torch.cartesian_prod(planes, torch.arange(grid.rows), torch.arange(grid.columns)))
        first += grid.planes
    return torch.cat(parts)


def _told_grids(runs: Runs, inputs: Mapping[str, Any], config: Any) -> list[list[Grid]] | None:
    """The grids the processor handed over, dealt out row by row; None where they do not add up.

    They do not where a later turn repeats the grids of images that the cache already holds, or where
    images and videos share a prompt and their order is in the token ids only.
    """
    told = [inputs[name] for name in ("image_grid_thw", "video_grid_thw") if _given(inputs, name)]
    if len(told) != 1:
        return None
    merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", 1)
    left = [Grid(rows // merge, columns // merge, planes) for planes, rows, columns in told[0].tolist()]
    dealt = [_deal(left, sum(row)) for row in runs]
    return None if left or any(row is None for row in dealt) else [row or [] for row in dealt]


def _deal(left: list[Grid], count: int) -> list[Grid] | None:
    row: list[Grid] = []
    while count > 0 and left:
        row.append(left.pop(0))
        count -= row[-1].size
    return row if count == 0 else None


def _image_size(runs: Runs, inputs: Mapping[str, Any], config: Any) -> int | None:
    """Tokens an image where all have the same number; None where that is not known."""
    pixels = inputs.get("pixel_values")
    total = sum(map(sum, runs))
    if isinstance(pixels, Tensor) and pixels.ndim == 4 and total % pixels.shape[0] == 0:
        size = total // pixels.shape[0]
        if all(run % size == 0 for row in runs for run in row):
            return size
    return _configured_size(config)


def _configured_size(config: Any) -> int | None:
    for name in ("image_seq_length", "mm_tokens_per_image"):
        size = getattr(config, name, None)
        if isinstance(size, int) and size > 0:
            return size
    return None


def _cut(run: int, size: int | None) -> list[Grid]:
    if size and run % size == 0:
        return [_square_or_row(size)] * (run // size)
    return [_square_or_row(run)]


def _square_or_row(size: int) -> Grid:
    side = isqrt(size)
    return Grid(side, side) if side * side == size else Grid(1, size)


def _given(inputs: Mapping[str, Any], name: str) -> bool:
    return isinstance(inputs.get(name), Tensor)

"""How much of each patch is padding: processors square an image by bands of one colour around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunekit.errors import UnsupportedModel
from prunekit.hf.grids import Grid


@dataclass(frozen=True, slots=True)
class Box:
    """The part of a picture that is image, each edge as a share of the picture's side in [0, 1]."""

    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0

    @classmethod
    def centred(cls, width: int, height: int) -> Box:
        """An image of this size amid a square as wide as its longer side; bands not rounded to pixels."""
        side = max(width, height)
        left, top = (1 - width / side) / 2, (1 - height / side) / 2
        return cls(top, left, 1 - top, 1 - left)


def padded_share(box: Box, grid: Grid) -> Float[Tensor, "rows columns"]:
    """The share of the area of each patch that lies outside the box, in [0, 1], float64.

    Args:
        box: Where the image is in its picture.
        grid: The patches of the picture, equal in size.
    """
    down = _inside(box.top, box.bottom, grid.rows)
    across = _inside(box.left, box.right, grid.columns)
    return 1 - down[:, None] * across[None, :]


def content_boxes(
    pixels: Float[Tensor, "images channels height width"], tolerance: float = 1e-4
) -> list[Box]:
    """What is left of each picture without its outer rows and columns of one colour.

    The colour at the top and left is that of the upper left corner, at the bottom and right that of the lower
    right one. A picture of which nothing would be left has no padding. An image whose own border is of one
    colour looks padded; pixels alone cannot tell.

    Args:
        pixels: Pictures as the vision tower gets them.
        tolerance: How far a channel may be from the corner's to count as the same colour.
    """
    upper, lower = _differs(pixels, 0, tolerance), _differs(pixels, -1, tolerance)
    down = _span(upper.any(2), lower.any(2))
    across = _span(upper.any(1), lower.any(1))
    return [
        Box(top, left, bottom, right) if bottom > top and right > left else Box()
        for (top, bottom), (left, right) in zip(down, across, strict=True)
    ]


def padded_shares(pixels: object, grids: Sequence[Grid]) -> list[Float[Tensor, " tokens"]]:
    """The padded share of every token of a batch, one tensor a plane.

    Args:
        pixels: `pixel_values` of the model's inputs.
        grids: The grid of each plane of the batch, in the order of the pictures.

    Raises:
        UnsupportedModel: The pictures are not one 4-D tensor with one picture a plane.
    """
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[0] != len(grids):
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else None
        raise UnsupportedModel(
            "The padding around images is read off pixel_values of the shape (pictures, channels, "
            f"height, width) with one picture a plane; got {shape} for {len(grids)} planes. "
            "Use a bias without PaddedShare for this model."
        )
    boxes = content_boxes(pixels.float())
    return [padded_share(box, grid).flatten() for box, grid in zip(boxes, grids, strict=True)]


def _inside(start: float, stop: float, cells: int) -> Float[Tensor, " cells"]:
    """The share of each of so many equal cells of [0, 1] that lies between start and stop."""
    edges = torch.linspace(0, cells, cells + 1, dtype=torch.float64)
    low, high = edges[:-1].clamp(min=start * cells), edges[1:].clamp(max=stop * cells)
    return (high - low).clamp(0, 1)


def _differs(pixels: Tensor, corner: int, tolerance: float) -> Bool[Tensor, "images height width"]:
    colour = pixels[:, :, corner, corner, None, None]
    return ((pixels - colour).abs() > tolerance).any(1)


def _span(first: Bool[Tensor, "images lines"], last: Bool[Tensor, "images lines"]) -> list[list[float]]:
    """From the first line marked in one to behind the last one marked in the other, as shares."""
    lines = first.shape[1]
    start = first.int().argmax(1)
    stop = torch.where(last.any(1), lines - last.flip(1).int().argmax(1), 0)
    return (torch.stack([start, stop], 1).cpu().double() / lines).tolist()

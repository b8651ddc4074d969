"""Maps read at the cells of planes of other sizes, as if resized to each of them, with their mean kept.

Places are kept as whole numbers, so nothing is rounded until the shares and weights, and a map read at its
own size is read as it stands. No resized map is ever made, so no size has to be read from the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prunekit.kernels.engine import Engine

BITS = 24
"""Of rows and of columns, where a plane and its size are packed into one int64."""


def resized_at(
    maps: Float[Tensor, "planes rows columns"],
    plane: Int[Tensor, "batch tokens"],
    cell: Int[Tensor, "batch tokens 2"],
    size: Int[Tensor, "batch tokens 2"],
    engine: Engine = "host",
) -> Float[Tensor, "batch tokens"]:
    """What each token finds at its cell of the map `plane`, resized to `size` rows and columns.

    Bilinear as `F.interpolate` with `align_corners=False`, then scaled to the mean the map had, or left as it
    is where the mean found is 0. Both engines give the same, to the bit, for maps without NaN or infinity.
    """
    rows, columns = maps.shape[-2:]
    row, column = cell.unbind(-1)
    own = (size[..., 0] == rows) & (size[..., 1] == columns)
    if engine == "host" and bool(own.all()):
        return maps[plane, row, column]
    up, low = _before(row, size[..., 0], rows)
    left, east = _before(column, size[..., 1], columns)
    corners = _corners(maps)[(plane * rows + up) * columns + left]
    above, below = corners[..., 0].lerp(corners[..., 1], east), corners[..., 2].lerp(corners[..., 3], east)
    return above.lerp(below, low) * _scale(maps, plane, size, engine).masked_fill(own, 1)


def _before(
    cell: Int[Tensor, "batch tokens"], size: Int[Tensor, "batch tokens"], places: int
) -> tuple[Int[Tensor, "batch tokens"], Float[Tensor, "batch tokens"]]:
    """The last of the map's places before the middle of a cell, and the share of the next one."""
    step = 2 * size
    place = ((2 * cell + 1) * places - size).clamp(min=0)  # times `step`
    return place // step, place.remainder(step).float() / step


def _corners(maps: Float[Tensor, "planes rows columns"]) -> Float[Tensor, "places 4"]:
    """Each place with the next in its row, in its column and in both; the rim goes on beyond the map."""
    wider = F.pad(maps[None], (0, 1, 0, 1), mode="replicate")[0]
    square = (wider[:, :-1, :-1], wider[:, :-1, 1:], wider[:, 1:, :-1], wider[:, 1:, 1:])
    return torch.stack(square, -1).flatten(0, 2)


def _scale(
    maps: Float[Tensor, "planes rows columns"],
    plane: Int[Tensor, "batch tokens"],
    size: Int[Tensor, "batch tokens 2"],
    engine: Engine,
) -> Float[Tensor, "batch tokens"]:
    """What keeps the mean, for each token; the host works it out once for each plane and size."""
    if engine == "device":
        return _correction(maps, plane.flatten(), size.flatten(0, 1)).view(plane.shape)
    codes = (((plane << BITS) | size[..., 0]) << BITS) | size[..., 1]
    kinds, which = codes.unique(return_inverse=True)
    sizes = torch.stack([kinds >> BITS, kinds], -1) & ((1 << BITS) - 1)
    return _correction(maps, kinds >> 2 * BITS, sizes)[which]


def _correction(
    maps: Float[Tensor, "planes rows columns"], plane: Int[Tensor, " some"], size: Int[Tensor, "some 2"]
) -> Float[Tensor, " some"]:
    """The mean of a map over the mean of the same map resized; 1 where that is 0."""
    down, across = (_weights(count, places) for count, places in zip(size.mT, maps.shape[1:], strict=True))
    found = _total(maps[plane].mul_(down[:, :, None]).mul_(across[:, None]).flatten(1))
    return torch.where(found == 0, 1, maps.flatten(1).mean(-1)[plane] / found)


def _total(values: Float[Tensor, "some places"]) -> Float[Tensor, " some"]:
    """The sums along the rows, in place, by halves: in one order on every device, which no `sum` promises."""
    while (count := values.shape[-1]) > 1:
        half = (count + 1) // 2
        values[:, : count - half].add_(values[:, half:])
        values = values[:, :half]
    return values[:, 0]


def _weights(size: Int[Tensor, " sizes"], places: int) -> Float[Tensor, "sizes places"]:
    """How much each place of a line of `places` counts in the mean of the line resized; each row sums to 1.

    A resized line is f(x) = a_0 + Σ_k (a_{k+1} - a_k) clamp(x - k, 0, 1) at evenly spaced x, the sum of
    relu(x - k) over these is that of an arithmetic progression, and lines read the same from both ends.
    """
    size = size[:, None]
    left = torch.arange(1, 2 * places, 2, device=size.device) * size
    count = (left + (places - 1)) // (2 * places)
    ramps = count * torch.sub(left, count, alpha=places)  # Σ relu(x - k), times 2 · size, k falling
    whole = 2 * size.square()
    reached = torch.cat([torch.zeros_like(whole), ramps.diff(), whole], -1)  # Σ clamp(x - k, 0, 1)
    return reached.diff().float() / whole

"""The baseline that is hard to beat: tokens spread evenly over each plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from prunekit import Candidates, Kept, Pairs, Room, Selector, Stage, Where, hookimpl


class UniformGrid(Selector):
    """Keeps tokens on an even lattice, without looking at them; exactly as many as there is room for.

    Planes share the room in proportion to their tokens. On a plane, n points stand in about
    sqrt(n * height / width) rows, row by row as even as whole numbers allow, each at the middle of its cell;
    each point takes the nearest token not taken yet, ties by raster order.
    """

    use: Literal["uniform_grid"] = "uniform_grid"

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"cell"})

    @property
    def compares(self) -> Pairs:
        return "kept"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        positions, grown = candidates.tokens.positions.cpu(), kept.cpu().clone()
        eligible = candidates.tokens.present.cpu() & ~grown
        for sample, rest in enumerate(room.tolist()):
            free = eligible[sample].nonzero().squeeze(-1)
            grown[sample, free[_spread(positions[sample, free], rest)]] = True
        return grown.to(kept.device)


def _spread(positions: Tensor, room: int) -> Tensor:
    """Which of these tokens to take, as indices."""
    planes, sizes = positions[:, 0].unique(return_counts=True)
    shares = _apportioned(sizes.tolist(), room)
    taken: list[Tensor] = []
    for plane, share in zip(planes.tolist(), shares, strict=True):
        here = (positions[:, 0] == plane).nonzero().squeeze(-1)
        taken.append(here[_nearest(positions[here, 1:], _lattice(positions[here, 1:], share))])
    return torch.cat(taken) if taken else positions.new_zeros(0)


def _apportioned(sizes: list[int], room: int) -> list[int]:
    """The room shared out in proportion to sizes, by largest remainder, never more than a size."""
    room, total = min(room, sum(sizes)), max(sum(sizes), 1)
    shares = [size * room // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda plane: -(sizes[plane] * room % total))
    for plane in by_remainder[: room - sum(shares)]:
        shares[plane] += 1
    return shares


def _lattice(cells: Tensor, points: int) -> list[tuple[float, float]]:
    """That many points, row and column, evenly over the rectangle the cells span."""
    if points == 0:
        return []
    top, left = cells.amin(0).tolist()
    height, width = (cells.amax(0) - cells.amin(0) + 1).tolist()
    rows = min(max(round((points * height / width) ** 0.5), -(-points // width), 1), height, points)
    found: list[tuple[float, float]] = []
    for row in range(rows):
        columns = points * (row + 1) // rows - points * row // rows
        found.extend(
            (top + (row + 0.5) * height / rows - 0.5, left + (column + 0.5) * width / columns - 0.5)
            for column in range(columns)
        )
    return found


def _nearest(cells: Tensor, points: list[tuple[float, float]]) -> Tensor:
    """For each point in turn the nearest cell not taken yet, ties by raster order."""
    raster = (cells[:, 0] * (int(cells[:, 1].max()) + 1) + cells[:, 1]).double()
    distance = torch.cdist(torch.tensor(points, dtype=torch.float64).reshape(-1, 2), cells.double().cpu())
    distance = distance.round(decimals=6) + 1e-9 * (raster / (raster.max() + 1)).cpu()
    taken: list[int] = []
    for row in distance:
        place = int(row.argmin())
        distance[:, place] = torch.inf
        taken.append(place)
    return torch.tensor(taken, dtype=torch.long, device=cells.device)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [UniformGrid]

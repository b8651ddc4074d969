"""S²Prune against a slow reading of its description."""

import math

import pytest
import torch

import prunekit as pk


def order(row, column, depth=5):
    """The turn of a place in Bayer's order: at each halving first the corner, then across, right, below."""
    turn = 0
    for level in range(depth):
        quarter = {(0, 0): 0, (1, 1): 1, (0, 1): 2, (1, 0): 3}[(row >> level & 1, column >> level & 1)]
        turn = turn * 4 + quarter
    return turn


def by_hand(features, room, rows=4, columns=4):
    """What is kept of one plane: indices in raster order."""
    height, width, _ = features.shape
    directions = features.double() / features.double().norm(dim=-1, keepdim=True)
    regions = {}
    for row in range(height):
        for column in range(width):
            detail = torch.zeros(features.shape[-1], dtype=torch.float64)
            for there, too in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= there < height and 0 <= too < width:
                    detail += (directions[there, too] - directions[row, column]) / 4
            region = regions.setdefault((row * rows // height, column * columns // width), [])
            region.append((order(row, column), row * width + column, float(detail.square().sum())))
    cells = sorted(regions)
    worth = [sum(detail for *_, detail in regions[cell]) / len(regions[cell]) for cell in cells]
    base = [1 if room >= len(cells) else 0] * len(cells)
    wanted = [value / sum(worth) * (room - sum(base)) for value in worth]
    quota = [
        one + (min(math.floor(want), len(regions[cell]) - one) if one else 0)
        for one, want, cell in zip(base, wanted, cells, strict=True)
    ]
    right = [want - (got - one) for want, got, one in zip(wanted, quota, base, strict=True)]
    while sum(quota) < room:
        for number in sorted(range(len(cells)), key=lambda number: (-right[number], number)):
            if sum(quota) < room and quota[number] < len(regions[cells[number]]):
                quota[number] += 1
    return sorted(
        place for cell, most in zip(cells, quota, strict=True) for _, place, _ in sorted(regions[cell])[:most]
    )


@pytest.mark.parametrize("rows, columns", [(24, 24), (12, 20), (7, 5), (3, 9), (1, 30)])
@pytest.mark.parametrize("budget", [5, 21, 64])
def test_it_is_what_it_is_said_to_be(rows, columns, budget):
    make = torch.Generator().manual_seed(rows * columns)
    rough = torch.rand(rows, columns, 1, generator=make) ** 4
    features = 1 + rough * torch.randn(rows, columns, 16, generator=make)
    tokens = pk.TokenBatch.grid(features.view(1, -1, 16), rows, columns)
    kept = pk.load("s2prune").swap(budget=budget)(tokens).indices[0].tolist()
    assert kept == by_hand(features, min(budget, rows * columns))


def test_every_region_keeps_one_and_a_flat_image_a_lattice():
    flat = pk.TokenBatch.grid(torch.ones(1, 256, 4), 16, 16)
    kept = pk.load("s2prune")(flat).kept[0].view(16, 16)
    assert torch.equal(kept.nonzero() % 2, torch.zeros(64, 2, dtype=torch.long))
    detailed = torch.ones(1, 256, 4)
    detailed[0, 0] = -1
    kept = pk.load("s2prune").swap(budget=20)(pk.TokenBatch.grid(detailed, 16, 16)).kept[0].view(16, 16)
    per_region = kept.unfold(0, 4, 4).unfold(1, 4, 4).sum((-1, -2))
    assert per_region[0, 0] == 5
    assert per_region.flatten()[1:].eq(1).all()

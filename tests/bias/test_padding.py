"""A patch whose padded share is the threshold itself is real, whatever floats make of the share."""

from fractions import Fraction
from random import Random

import torch

import prunekit as pk
from prunekit.hf.grids import Grid
from prunekit.hf.padding import Box, padded_share


def inside(length, side, cells):
    """The share of each cell of a side that a stretch in its middle covers, exactly."""
    low, high = (Fraction(side + sign * length, 2 * side) * cells for sign in (-1, 1))
    return [max(Fraction(0), min(high, cell + 1) - max(low, cell)) for cell in range(cells)]


def test_padding_is_exact_at_the_threshold():
    random, met = Random(0), 0
    for _ in range(150):
        grid, threshold = random.choice([8, 12, 16]), random.choice([0, 0.25, 0.5, 0.75])
        side = grid * random.randint(1, 3)
        other = random.randint(1, side)
        width, height = random.choice([(side, other), (other, side)])
        down, across = inside(height, side, grid), inside(width, side, grid)
        exact = torch.tensor([[1 - row * column <= threshold for column in across] for row in down])
        met += sum(1 - row * column == threshold for row in down for column in across)
        share = padded_share(Box.centred(width, height), Grid(grid, grid)).reshape(1, -1)
        tokens = pk.TokenBatch.grid(torch.ones(1, grid * grid, 1), grid, grid, {pk.PaddedShare(): share})
        bias = pk.installed().stage("bias", "padding")(threshold=threshold)(tokens)
        assert torch.equal(bias.values[0].bool().reshape(grid, grid), exact)
    assert met

"""Bayer's order, against its recursive definition, and what it is for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prunekit as pk
from prunekit_plugins.importance.bayer import Bayer


def bayer(size):
    """The matrix of a power of two: each quarter is the matrix of half the size, four times as far apart."""
    if size == 1:
        return torch.zeros(1, 1, dtype=torch.long)
    half = 4 * bayer(size // 2)
    return torch.cat([torch.cat([half, half + 2], 1), torch.cat([half + 3, half + 1], 1)])


def scores(rows, columns):
    return Bayer()(pk.TokenBatch.grid(torch.zeros(1, rows * columns, 1), rows, columns)).view(rows, columns)


@pytest.mark.parametrize("size", [1, 2, 4, 16, 32])
def test_it_is_the_matrix(size):
    order = scores(size, size).flatten().argsort(descending=True, stable=True)
    assert torch.equal(bayer(size).flatten()[order], torch.arange(size * size))


@given(st.integers(1, 4), st.data())
def test_the_best_stand_one_in_each_square(depth, data):
    size, count = 2**depth, data.draw(st.integers(0, depth))
    wanted = 4**count
    best = scores(size, size).flatten().topk(wanted).indices
    side = size // 2**count
    squares = {(int(place) // size // side, int(place) % size // side) for place in best}
    assert len(squares) == wanted


@pytest.mark.parametrize("rows, columns", [(1, 4096), (4096, 1), (64, 64)])
def test_no_two_places_are_worth_the_same(rows, columns):
    found = scores(rows, columns)
    assert found.unique().numel() == rows * columns
    assert found.min() >= 0
    assert found.max() < 1

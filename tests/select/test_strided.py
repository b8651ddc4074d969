"""Strides against slices of lists."""

import pytest
import torch

import prunekit as pk
from prunekit_plugins.select.strided import Strided


def places(stage, count, kept=(), room=4):
    tokens = pk.TokenBatch.grid(torch.ones(1, count, 1), 1, count)
    before = torch.zeros_like(tokens.present)
    before[0, list(kept)] = True
    candidates = pk.Candidates(tokens, torch.ones(1, count), pk.NoEdges(tokens.present))
    grown = stage(candidates, before, torch.tensor([room]))
    return (grown & ~before)[0].nonzero().flatten().tolist()


@pytest.mark.parametrize("count, kept, room", [(20, [0, 1, 7], 4), (9, [], 9), (17, [2], 5), (10, [3], 1)])
def test_steps_are_counted_over_the_rest(count, kept, room):
    rest = [token for token in range(count) if token not in kept]
    assert places(Strided(), count, kept, room) == rest[:: len(rest) // room][:room]


def test_steps_are_counted_over_all():
    assert places(Strided(among="all", step=5), 20, [0, 1, 7]) == [5, 10, 15]
    assert places(Strided(among="all", step=5), 20, [1, 7], room=3) == [0, 5, 10]
    assert places(Strided(among="all"), 20, [5]) == [0, 10, 15]


def test_room_is_left():
    assert places(Strided(leave=1), 20) == [0, 6, 12]
    assert places(Strided(leave=4), 20) == []


def test_the_order_is_that_of_the_raster():
    tokens = pk.TokenBatch.grid(torch.ones(1, 6, 1), 2, 3)
    backwards = pk.TokenBatch(tokens.features, tokens.positions.flip(1), tokens.present)
    candidates = pk.Candidates(backwards, torch.ones(1, 6), pk.NoEdges(tokens.present))
    grown = Strided()(candidates, torch.zeros_like(tokens.present), torch.tensor([2]))
    assert grown[0].nonzero().flatten().tolist() == [2, 5]

"""Anchors come with the cells around them, and nothing more."""

import pytest
import torch

import prunekit as pk

ANCHORS = pk.installed().stage("select", "anchors")


def taken(rows, columns, best, room, **fields):
    """What is taken from one plane whose best tokens are these cells, best first."""
    scores = torch.zeros(1, rows * columns)
    for worth, (row, column) in enumerate(reversed(best), 1):
        scores[0, row * columns + column] = worth
    tokens = pk.TokenBatch.grid(torch.ones(1, rows * columns, 1), rows, columns)
    candidates = pk.Candidates(tokens, scores, pk.NoEdges(tokens.present))
    kept = ANCHORS(**fields)(candidates, torch.zeros_like(tokens.present), torch.tensor([room]))
    return [divmod(place, columns) for place in kept[0].nonzero().flatten().tolist()]


CASES = {
    "amid the plane": ((2, 2), "cut", [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)]),
    "amid the plane, wrapped": ((2, 2), "wrap", [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)]),
    "at the end of a row": ((1, 4), "cut", [(0, 4), (1, 3), (1, 4), (2, 4)]),
    "at the end of a row, wrapped": ((1, 4), "wrap", [(0, 4), (1, 3), (1, 4), (2, 0), (2, 4)]),
    "in the first corner": ((0, 0), "cut", [(0, 0), (0, 1), (1, 0)]),
    "near the last corner, wrapped": ((3, 1), "wrap", [(2, 1), (3, 0), (3, 1), (3, 2), (3, 4)]),
}


@pytest.mark.parametrize("cell, edges, wanted", CASES.values(), ids=CASES)
def test_what_surrounds_an_anchor(cell, edges, wanted):
    assert taken(4, 5, [cell], 5, share=1.0, edges=edges) == wanted


@pytest.mark.parametrize("room, share, anchors", [(25, 0.1, 0), (26, 0.1, 1), (75, 0.1, 2), (10, 1.0, 2)])
def test_how_many_anchors_there_are(room, share, anchors):
    """round(room · share / 5), half to even; on one row apart, so that each brings two neighbours."""
    best = [(0, 5 * place + 2) for place in range(15)]
    assert len(taken(1, 80, best, room, share=share)) == 3 * anchors


def test_anchors_and_their_neighbours_take_turns_until_the_room_is_used():
    assert taken(1, 9, [(0, 1), (0, 7)], 4, share=1.0) == [(0, 0), (0, 1), (0, 2)]
    assert taken(1, 9, [(0, 1), (0, 7)], 8, share=1.0) == [(0, 0), (0, 1), (0, 2), (0, 6), (0, 7), (0, 8)]
    assert taken(1, 9, [(0, 1), (0, 7)], 2, share=1.0) == []

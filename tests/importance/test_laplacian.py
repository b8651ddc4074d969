"""The Laplacian of a feature map, against looking at every neighbour."""

import torch
from hypothesis import given, settings

import prunekit as pk
from prunekit.testing import token_sets
from prunekit_plugins.importance.laplacian import Laplacian


def by_neighbours(features, cells):
    """For each token of one sample the squared length, and the sum of all Laplacians."""
    lengths = features.norm(dim=-1, keepdim=True)
    directions = torch.where(lengths > 0, features / lengths, 0)
    at = {tuple(cell): token for token, cell in enumerate(cells)}
    found = torch.zeros_like(directions)
    for (plane, row, column), token in at.items():
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            other = at.get((plane, row + down, column + right), token)
            found[token] += (directions[other] - directions[token]) / 4
    return found.square().sum(-1), found.sum(0)


@settings(max_examples=60)
@given(token_sets(spoilt=False))
def test_it_is_the_sum_of_what_neighbours_differ_by(tokens):
    scores = Laplacian()(tokens)
    for sample, present in enumerate(tokens.present):
        wanted, total = by_neighbours(
            tokens.features[sample, present].double(), tokens.positions[sample, present].tolist()
        )
        torch.testing.assert_close(scores[sample, present].double(), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(total, torch.zeros_like(total))  # so the mean square is the variance


def test_what_is_flat_has_no_detail():
    features = torch.ones(1, 24, 3)
    features[0, 8] = torch.tensor([-1.0, -1, -1])
    scores = Laplacian()(pk.TokenBatch.grid(features, 4, 6))
    assert scores[0].nonzero().flatten().tolist() == [2, 7, 8, 9, 14]
    torch.testing.assert_close(scores[0, 8], torch.tensor(4.0))

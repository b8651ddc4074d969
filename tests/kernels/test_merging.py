"""Merging against the rules written out token by token."""

import pytest
import torch
from hypothesis import given, settings

from prunekit.kernels.merging import joined, merged, surrounded
from prunekit.testing import merges

RULES = ["mean", "add_mean", "add", "sum"]


def cosine(one, other):
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def written_out(rule, own, weight, others, weights):
    """What a representative becomes."""
    total = sum(weights)
    added = sum((w * x for w, x in zip(weights, others, strict=True)), torch.zeros_like(own))
    match rule:
        case "mean":
            return (weight * own + added) / (weight + total) if total else own
        case "add_mean":
            return own + added / total if total else own
        case "add":
            return own + added
    return weight * own + added


def parts(merge):
    """Features without NaN and infinities, who stands, who joins, and weights in eighths."""
    features = merge.tokens.features.nan_to_num(1, 1, 1)
    standing = merge.selection.kept
    members = merge.tokens.present & ~standing
    weight = 1 + (merge.tokens.positions.sum(-1) % 4).float()
    return features, standing, members, weight


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25)
@given(merges())
def test_each_joins_its_nearest(rule, merge):
    features, standing, members, weight = parts(merge)
    found = merged(features, joined(features, standing, members).weighed(weight), weight, rule)
    for sample, (x, w) in enumerate(zip(features, weight, strict=True)):
        joining = {token: [] for token in standing[sample].nonzero().flatten().tolist()}
        for token in members[sample].nonzero().flatten().tolist():
            joining[max(joining, key=lambda r: (cosine(x[token], x[r]), -r))].append(token)
        for token in range(len(x)):
            wanted = x[token]
            if token in joining:
                others = joining[token]
                wanted = written_out(rule, x[token], w[token], x[others], w[others].tolist())
            torch.testing.assert_close(found[sample, token], wanted)


@pytest.mark.parametrize("k", [1, 3, 100])
def test_each_gathers_from_its_neighbours(k):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 12, 5, generator=generator)
    standing = torch.rand(2, 12, generator=generator) < 0.3
    members = torch.rand(2, 12, generator=generator) < 0.8
    weight = torch.rand(2, 12, generator=generator)
    found = merged(features, surrounded(features, standing, members, k).weighed(weight), weight, "add")
    for sample in range(2):
        x, w = features[sample], weight[sample]
        for token in range(12):
            others = [j for j in range(12) if members[sample, j] and j != token]
            nearest = sorted(others, key=lambda j: -cosine(x[token], x[j]))[:k]
            wanted = x[token] + sum(w[j] * x[j] for j in nearest) if standing[sample, token] else x[token]
            torch.testing.assert_close(found[sample, token], wanted)


def test_a_distance_is_euclidean():
    features = torch.tensor([[[1.0, 0.0], [9.0, 0.0], [8.0, 6.0], [2.0, 1.0]]])
    standing = torch.tensor([[True, True, False, False]])
    members = ~standing
    near = joined(features, standing, members, distance="euclidean")
    assert near.weights[0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
    alike = joined(features, standing, members)
    assert alike.weights[0].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_the_other_half_comes_first_where_it_holds_a_representative():
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]]])
    standing = torch.tensor([[True, True, False, False]])
    half = torch.tensor([[True, False, True, False]])
    across = joined(features, standing, ~standing, half=half)
    assert across.weights[0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
    alone = torch.tensor([[True, False, False, False]])
    within = joined(features, alone, torch.tensor([[False, False, True, True]]), half=half)
    assert within.weights[0].tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spoils_nothing_else(distance, spoilt):
    features = torch.ones(1, 5, 3)
    features[0, [1, 3], 0] = spoilt
    standing = torch.tensor([[True, True, False, False, False]])
    groups = joined(features, standing, ~standing, distance=distance)
    found = merged(features, groups, torch.ones(1, 5), "sum")
    assert found[0, 0].tolist() == [3, 3, 3]
    torch.testing.assert_close(found[0, 1:], features[0, 1:], equal_nan=True)


def test_nobody_to_join():
    features = torch.ones(2, 3, 4)
    nobody, everybody = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    for rule in RULES:
        assert torch.equal(
            merged(features, joined(features, nobody, everybody), torch.ones(2, 3), rule), features
        )
    nothing = torch.ones(2, 0, 4)
    groups = joined(nothing, nobody[:, :0], nobody[:, :0])
    assert merged(nothing, groups, torch.ones(2, 0), "mean").shape == (2, 0, 4)
    assert surrounded(nothing, nobody[:, :0], nobody[:, :0], 3).weights.shape == (2, 0, 0)

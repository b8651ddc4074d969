"""Magnitude: the norm of a filter, over all layers that write a channel."""

import pytest
import torch
from networks import IMAGES, Chain, made

import prunekit as pk
from prunekit.testing import conformance
from prunekit_plugins.importance.feature_norm import FeatureNorm
from prunekit_plugins.structural import prune
from prunekit_plugins.structural.magnitude import Magnitude


@pytest.mark.parametrize("order", [1, 2])
def test_it_is_the_norm_of_all_a_channel_is_written_by(order):
    weights = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0))
    tokens = pk.TokenBatch.grid(weights.flatten(1)[None], 1, 6)
    found = Magnitude(order=order)(tokens)
    torch.testing.assert_close(found[0], torch.linalg.vector_norm(weights.flatten(1), order, dim=1))
    assert torch.equal(found, FeatureNorm(order=order)(tokens))


def test_the_laws():
    conformance(Magnitude())


def test_the_longest_filters_of_a_network_stay():
    network = made(Chain, torch.float32)
    pruned = prune(network, IMAGES, pk.load("magnitude"))
    group = next(each for each in pruned.report.thinned if each.writers == ("fc1",))
    lengths = network.fc1.weight.detach().abs().sum(1)
    assert list(group.kept) == lengths.topk(len(group.kept)).indices.sort().values.tolist()

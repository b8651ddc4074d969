"""The semantic graph where scaling is at its limits."""

import pytest
import torch

import prunekit as pk
from prunekit.graph import everywhere
from prunekit_plugins.graphs.cosine import Cosine


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("scaling", ["clip", "shift", "min_max"])
def test_similarities_stay_between_zero_and_one(scaling, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 300, 7, generator=generator)
    features[0] = features[0, :1] * torch.rand(300, 1, generator=generator)
    tokens = pk.TokenBatch.grid(features, 15, 20)
    everyone = everywhere(tokens.present)
    similarity = Cosine(scaling=scaling)(tokens).similarity(everyone, everyone)
    assert ((similarity >= 0) & (similarity <= 1)).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_constant_image_has_no_least_and_largest_cosine(seed):
    """Where all cosines are one, min-max says nothing; rounding must not be stretched into edges."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, 1, 64, generator=generator) * torch.rand(1, 300, 1, generator=generator)
    graph = Cosine(scaling="min_max")(pk.TokenBatch.grid(features, 15, 20))
    assert not graph.to_dense().any()

"""Attention under rotary positions alone, against turning vectors of ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit_plugins.bias.rope_only import RopeOnly


def turned(position, theta, dim):
    """A vector of ones at a position, as transformers rotates the halves of a head."""
    angle = position * torch.tensor([theta ** (-2 * pair / dim) for pair in range(dim // 2)]).double()
    cos, sin = torch.cat([angle.cos()] * 2), torch.cat([angle.sin()] * 2)
    ones = torch.ones(dim, dtype=torch.float64)
    return ones * cos + torch.cat([-ones[dim // 2 :], ones[: dim // 2]]) * sin


@settings(max_examples=30)
@given(
    places=st.lists(st.integers(0, 4000), min_size=1, max_size=20, unique=True),
    further=st.integers(0, 50),
    theta=st.sampled_from([100.0, 10000.0, 1e6]),
    dim=st.sampled_from([2, 64, 128]),
)
def test_it_is_the_attention_of_ones(places, further, theta, dim):
    last = max(places) + further
    query = turned(last, theta, dim)
    logits = torch.stack([query @ turned(place, theta, dim) for place in places]) / dim**0.5
    distance = torch.tensor([[last - place for place in places]]).float()
    tokens = pk.TokenBatch.grid(torch.ones(1, len(places), 1), 1, len(places), {pk.Distance(): distance})
    bias = RopeOnly(theta=theta, dim=dim)(tokens)
    assert bias.removal == "ratio"
    torch.testing.assert_close(bias.values[0].double(), logits.softmax(0), rtol=1e-4, atol=1e-9)


def test_attention_that_is_the_position_alone_becomes_even():
    distance = torch.arange(600, 24, -1)[None].float()
    tokens = pk.TokenBatch.grid(torch.ones(1, 576, 1), 24, 24, {pk.Distance(): distance})
    bias = RopeOnly(epsilon=0.0)(tokens)
    assert bias.values[0, 0] < bias.values[0, -1]
    torch.testing.assert_close(bias.remove(0.3 * bias.values), torch.full((1, 576), 0.3))


@pytest.mark.parametrize("fields", [{"dim": 3}, {"theta": 1.0}])
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(ValueError):
        RopeOnly(**fields)

"""Edges between one place of two frames of a segment, against looking at every pair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit.kernels.parts import segment_of
from prunekit.testing import token_sets
from prunekit_plugins.graphs.same_place import SamePlace


@settings(max_examples=60)
@given(token_sets(most_planes=5, longest_side=3), st.sampled_from([-1.0, 0.3, 0.9]))
def test_an_edge_joins_one_place_of_two_planes_of_a_segment(tokens, alike):
    dense = SamePlace(alike=alike)(tokens).to_dense()
    segment = segment_of(tokens.features, tokens.positions, tokens.present, alike)
    for sample, present in enumerate(tokens.present.tolist()):
        places = zip(segment[sample].tolist(), tokens.positions[sample].tolist(), strict=True)
        place = [(part, row, column) for part, (_, row, column) in places]
        for a, there in enumerate(present):
            for b, too in enumerate(present):
                assert bool(dense[sample, a, b]) == (there and too and a != b and place[a] == place[b])


@pytest.mark.parametrize("alike, edges", [(-1.0, 6 * 4), (0.5, 2 * 4)])
def test_a_cut_ends_a_segment(alike, edges):
    """Three frames of four tokens, the last of which shows something else."""
    frames = torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]).repeat_interleave(4, 0)
    assert int(SamePlace(alike=alike)(pk.TokenBatch.grid(frames[None], 2, 2)).to_dense().sum()) == edges

"""Outliers against torch's quantiles, sample by sample; too many, too few."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit_plugins.select.outliers import Outliers


def grown(stage, scores, present, room):
    tokens = pk.TokenBatch(
        torch.ones(*scores.shape, 1), torch.zeros(*scores.shape, 3, dtype=torch.long), present
    )
    nothing = torch.zeros_like(present)
    return stage(pk.Candidates(tokens, scores, pk.NoEdges(present)), nothing, room)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**31 - 1), count=st.integers(1, 40), factor=st.sampled_from([0.0, 0.5, 1.5]))
def test_outliers_are_those_of_the_quartiles(seed, count, factor):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(3, count, generator=generator) ** 6
    present = torch.rand(3, count, generator=generator) < 0.8
    kept = grown(Outliers(factor=factor), scores, present, present.sum(-1))
    for sample in range(3):
        here = present[sample]
        if here.any():
            first, third = scores[sample, here].quantile(torch.tensor([0.25, 0.75]))
            wanted = here & (scores[sample] > third + factor * (third - first))
            assert torch.equal(kept[sample], wanted)


SCORES = torch.tensor([[0.0, 0.1, 5.0, 0.0, 0.2, 9.0, 0.1, 7.0, 0.0, 0.1, 0.2, 0.1]])
PRESENT = torch.ones(1, 12, dtype=torch.bool)


def places(stage, room):
    return grown(stage, SCORES, PRESENT, torch.tensor([room]))[0].nonzero().flatten().tolist()


def test_too_many_and_too_few():
    assert places(Outliers(), 12) == [2, 5, 7]
    assert places(Outliers(), 2) == [5, 7]
    assert places(Outliers(leave=1), 3) == [5, 7]
    assert places(Outliers(leave=3), 2) == []
    assert places(Outliers(fill="score"), 5) == [2, 4, 5, 7, 10]
    assert places(Outliers(fill="score", leave=1), 5) == [2, 4, 5, 7]


def test_what_is_infinite_stands_out_and_nan_does_not():
    scores = torch.tensor([[torch.nan, torch.inf, 0.0, 0.0, 1.0, 1.0, 0.0, -torch.inf, 0.0, 0.0]])
    found = grown(Outliers(factor=3), scores, PRESENT[:, :10], torch.tensor([10]))
    assert found[0].nonzero().flatten().tolist() == [1]

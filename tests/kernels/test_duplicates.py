"""Duplicates are dropped as the slow loop drops them, on both engines."""

import pytest
import torch
from greedily import DEGENERATE, ENGINES, best_first, cases, without_kept
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.kernels.duplicates import without_duplicates
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.kernels.ranking import packed_key
from prunekit.measuring import Counting
from prunekit.testing import choices


def loop(alike, queue, room, at_once):
    """From a queue: even places against odd ones, the most alike few dropped, and again."""
    while len(queue) > room:
        even, odd = queue[::2], queue[1::2]
        even = sorted(even, key=lambda token: -max(alike[token][other] for other in odd))
        queue = even[min(at_once, len(queue) - room) :] + odd
    return sorted(queue)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150)
@given(choices(), st.sampled_from([1, 2, 8]))
def test_dropping_is_the_loop(engine, choice, at_once):
    free = choice.tokens.present & ~choice.kept
    key = packed_key(choice.scores, free)
    task = Task(choice.kept, free, choice.room, free.shape[-1], engine)
    added = without_duplicates(Likeness.of(choice.tokens.features), task, key, at_once)
    for sample, (alike, _, eligible, room) in enumerate(cases(choice)):
        queue = sorted(eligible, key=best_first(choice.scores[sample]))
        wanted = loop(alike, queue, room, at_once) if room else []
        assert added[sample].nonzero().flatten().tolist() == wanted


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("features", DEGENERATE.values(), ids=DEGENERATE)
def test_exactly_as_many_as_there_is_room_for(features, engine):
    """Odd numbers too, where the official code fails."""
    everyone = torch.ones(1, 40, dtype=torch.bool)
    key = packed_key(torch.rand(1, 40, generator=torch.Generator().manual_seed(0)), everyone)
    for room in (1, 7, 39, 40):
        assert len(without_kept(features, engine, without_duplicates, room, key=key, at_once=8)) == room


def test_both_engines_drop_the_same_of_many():
    features = torch.randn(2, 301, 16, generator=torch.Generator().manual_seed(0))
    free = torch.ones(2, 301, dtype=torch.bool)
    key = packed_key(features.norm(dim=-1), free)
    host, device = (
        without_duplicates(
            Likeness.of(features), Task(~free, free, torch.tensor([40, 3]), 40, engine), key, 8
        )
        for engine in ENGINES
    )
    assert torch.equal(host, device)
    assert host.sum(-1).tolist() == [40, 3]


def test_the_device_form_reads_nothing():
    free = torch.ones(2, 30, dtype=torch.bool)
    task = Task(~free, free, torch.tensor([4, 7]), 7, "device")
    with Counting() as counted:
        without_duplicates(Likeness.of(torch.randn(2, 30, 8)), task, packed_key(torch.rand(2, 30), free), 8)
    assert counted.syncs == 0

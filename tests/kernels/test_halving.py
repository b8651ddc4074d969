"""Halving against the matching written out with lists."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.kernels.greedy import Task
from prunekit.kernels.halving import halved


def written_out(alike, kept, goal):
    """The tokens that stay."""
    left = list(range(len(alike)))
    while len(left) > goal:
        first, second = left[::2], left[1::2]
        if all(kept[i] for i in first):
            first, second = second, first
        order = sorted((-max(float(alike[i, j]) for j in second), i) for i in first if not kept[i])
        gone = {i for _, i in order[: min(len(left) - goal, len(second))]}
        left = [i for i in left if i not in gone]
    return left


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**31 - 1),
    count=st.integers(1, 30),
    share=st.sampled_from([0.0, 0.2, 0.7]),
    levels=st.sampled_from([2, 1000]),
)
def test_the_same_stay(seed, count, share, levels):
    generator = torch.Generator().manual_seed(seed)
    alike = torch.randint(0, levels, (2, count, count), generator=generator) / levels
    kept = torch.rand(2, count, generator=generator) < share
    room = (torch.rand(2, generator=generator) * ((~kept).sum(-1) + 1)).long()
    task = Task(kept, ~kept, room, count, "host")
    stays, exact = halved(alike, task)
    assert exact.all()
    for sample in range(2):
        goal = max(int(kept[sample].sum() + room[sample]), 1)
        wanted = written_out(alike[sample], kept[sample].tolist(), goal)
        assert stays[sample].nonzero().flatten().tolist() == wanted
        assert len(wanted) == goal


@pytest.mark.parametrize("count", [7, 8, 64])
@pytest.mark.parametrize("goal", [1, 3, 7])
def test_as_many_rounds_as_halving_takes_are_enough_where_nothing_is_kept(count, goal):
    alike = torch.rand(1, count, count, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, count, dtype=torch.bool)
    tasks = [Task(nothing, ~nothing, torch.tensor([goal]), goal, engine) for engine in ("host", "device")]
    (host, _), (device, exact) = (halved(alike, task) for task in tasks)
    assert torch.equal(host, device)
    assert exact.all()

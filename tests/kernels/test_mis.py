"""The lazy, blocked, batched independent set is the textbook greedy walk."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.kernels.mis import greedy_mis
from prunekit.kernels.ranking import packed_key


def textbook(order, neighbours, room, around):
    """Walk the candidates from the best; take one unless a neighbour was taken before."""
    taken = []
    for token in order:
        if len(taken) == room:
            break
        if not neighbours[token] & {*taken, *around}:
            taken.append(token)
    return sorted(taken)


@pytest.mark.parametrize("block", [1, 3, 128])
@settings(max_examples=150)
@given(
    count=st.integers(0, 30),
    batch=st.integers(1, 3),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]),
    levels=st.sampled_from([1, 3, 1000]),
    suppress=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_mis_is_the_textbook_walk(*, block, count, batch, density, levels, suppress, seed):
    random = Random(seed)
    matrix = torch.zeros(batch, count, count, dtype=torch.bool)
    for sample in range(batch):
        for i in range(count):
            for j in range(i):
                matrix[sample, i, j] = matrix[sample, j, i] = random.random() < density
    scores = torch.tensor([[random.randint(1, levels) for _ in range(count)] for _ in range(batch)])
    scores = scores.reshape(batch, count).float()
    kept = torch.rand(batch, count, generator=torch.Generator().manual_seed(seed % 2**31)) < 0.2
    room = [random.randint(0, count) for _ in range(batch)]

    def adjacent(rows, columns):
        return matrix[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None]]

    key = packed_key(scores, ~kept)
    taken = greedy_mis(key, torch.tensor(room), adjacent, kept if suppress else None, block)

    for sample in range(batch):
        rest = [token for token in range(count) if not kept[sample, token]]
        order = sorted(rest, key=lambda token: (-float(scores[sample, token]), token))
        neighbours = [set(row.nonzero().flatten().tolist()) for row in matrix[sample]]
        around = kept[sample].nonzero().flatten().tolist() if suppress else []
        wanted = textbook(order, neighbours, room[sample], around)
        assert taken[sample].nonzero().flatten().tolist() == wanted


def test_most_of_the_graph_is_never_asked_for():
    """Where the budget is small, only the best candidates are looked at."""
    asked = 0

    def adjacent(rows, columns):
        nonlocal asked
        asked += rows.shape[-1] * columns.shape[-1]
        return torch.zeros(1, rows.shape[-1], columns.shape[-1], dtype=torch.bool)

    scores = torch.rand(1, 4096, generator=torch.Generator().manual_seed(0))
    key = packed_key(scores, torch.ones(1, 4096, dtype=torch.bool))
    assert int(greedy_mis(key, torch.tensor([100]), adjacent).sum()) == 100
    assert asked == 128 * 128


def test_more_tokens_than_a_block():
    """A path graph longer than a block: every second token is taken."""
    count = 300
    scores = torch.arange(count, 0, -1)[None].float()
    key = packed_key(scores, torch.ones(1, count, dtype=torch.bool))
    taken = greedy_mis(
        key, torch.tensor([count]), lambda rows, columns: (rows[:, :, None] - columns[:, None]).abs() == 1
    )
    assert taken[0].nonzero().flatten().tolist() == list(range(0, count, 2))

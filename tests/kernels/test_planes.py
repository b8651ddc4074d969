"""Planes are what a walk over the tokens finds, whatever their numbers, and no value is read."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from prunekit.kernels.planes import extents, raster_rank
from prunekit.measuring import Counting

ANY = st.integers(-(2**62), 2**62)
cells = st.tuples(
    st.one_of(st.integers(0, 3), ANY),
    st.integers(0, 6),
    st.integers(0, 6),
    st.sampled_from([True, True, False]),
)


def laid_out(tokens):
    """Positions and presence of one sample; padding stands at places that no token could have."""
    positions = [(p, r, c) if real else (p, -7 * r, 10**9 * c) for p, r, c, real in tokens]
    return (
        torch.tensor(positions, dtype=torch.long).reshape(1, -1, 3),
        torch.tensor([real for *_, real in tokens], dtype=torch.bool).reshape(1, -1),
    )


@given(st.lists(cells, max_size=20))
def test_extents_are_counted_to_the_last_token_of_a_plane(tokens):
    found = extents(*laid_out(tokens))[0].tolist()
    for (plane, _, _, real), size in zip(tokens, found, strict=True):
        if real:
            own = [(row, column) for other, row, column, there in tokens if there and other == plane]
            assert size == [max(row for row, _ in own) + 1, max(column for _, column in own) + 1]
        else:
            assert min(size) >= 1


@given(st.lists(cells, max_size=20))
def test_raster_rank_is_the_place_in_a_sorted_list(tokens):
    found = raster_rank(*laid_out(tokens))[0].tolist()
    order = sorted((i for i, token in enumerate(tokens) if token[3]), key=lambda i: (*tokens[i][:3], i))
    assert [found[i] for i in order] == list(range(len(order)))
    assert sorted(found) == list(range(len(tokens)))


@given(st.lists(st.lists(cells, min_size=5, max_size=5), max_size=3))
def test_a_batch_is_its_samples(samples):
    parts = [laid_out(sample) for sample in samples] or [
        (torch.zeros(0, 5, 3).long(), torch.zeros(0, 5).bool())
    ]
    positions, present = (torch.cat(values) for values in zip(*parts, strict=True))
    for kernel in (extents, raster_rank):
        assert torch.equal(kernel(positions, present), torch.cat([kernel(*part) for part in parts]))


def test_nothing_is_read():
    positions, present = laid_out([(p, r, c, True) for p in (9, -4) for r in range(3) for c in range(4)])
    with Counting() as counted:
        extents(positions, present)
        raster_rank(positions, present)
    assert counted.syncs == 0

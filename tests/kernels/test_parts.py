"""Parts of a sample and what each gets, against slow counting."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.kernels.neighbours import cell_before, cell_beside, raster_beside
from prunekit.kernels.parts import (
    best_of_parts,
    cell_of,
    chunk_of,
    mean_of,
    quotas,
    rank_within,
    segment_of,
)
from prunekit.kernels.planes import plane_of, raster_order
from prunekit.kernels.ranking import packed_key
from prunekit.testing import token_sets


def members(part, present):
    """For each part of one sample its tokens, by the part's number."""
    found = {}
    for token in present.nonzero().flatten().tolist():
        found.setdefault(int(part[token]), []).append(token)
    return dict(sorted(found.items()))


@settings(max_examples=60)
@given(token_sets(), st.integers(1, 20))
def test_chunks_are_runs_of_the_raster(tokens, chunks):
    part = chunk_of(tokens.positions, tokens.present, chunks)
    order = raster_order(tokens.positions, tokens.present)
    for sample, count in enumerate(tokens.counts.tolist()):
        numbers = part[sample, order[sample, :count]].tolist()
        sizes = [count // chunks + (number < count % chunks) for number in range(chunks)]
        assert numbers == [number for number, size in enumerate(sizes) for _ in range(size)]
    assert (part < max(part.shape[-1], 1)).all()


def told_apart(part, present, label):
    """Whether tokens of one sample have one part exactly if they have one label, parts in order of labels."""
    there = present.nonzero().flatten().tolist()
    numbers = sorted({(label[token], int(part[token])) for token in there})
    labels, parts = [one for one, _ in numbers], [number for _, number in numbers]
    return len(set(labels)) == len(labels) and parts == sorted(set(parts))


@settings(max_examples=60)
@given(token_sets(longest_side=9), st.integers(1, 5), st.integers(1, 5))
def test_cells_cut_every_plane_evenly(tokens, rows, columns):
    part = cell_of(tokens.positions, tokens.present, rows, columns)
    for sample, present in enumerate(tokens.present):
        here = tokens.positions[sample, present].tolist()
        height, width = (
            {plane: 1 + max(cell[axis] for cell in here if cell[0] == plane) for plane, *_ in here}
            for axis in (1, 2)
        )
        label = {
            token: (plane, row * rows // height[plane], column * columns // width[plane])
            for token, (plane, row, column) in zip(present.nonzero().flatten().tolist(), here, strict=True)
        }
        assert told_apart(part[sample], present, label)
    assert (part < max(part.shape[-1], 1)).all()


def segments(features, positions, alike):
    """For each plane of one sample its segment, one plane after another."""
    lengths = features.norm(dim=-1, keepdim=True)
    directions = torch.where(lengths > 0, features / lengths, 0)
    found, last = {}, None
    for plane in sorted(set(positions[:, 0].tolist())):
        mean = directions[positions[:, 0] == plane].mean(0)
        if last is None:
            number = 0
        elif mean.norm() * last.norm() == 0:
            number += alike > 0
        else:
            number += float(mean @ last / (mean.norm() * last.norm())) < alike - 1e-5
        found[plane], last = number, mean
    return found


@settings(max_examples=150)
@given(
    token_sets(spoilt=False, most_planes=7, longest_side=2),
    st.sampled_from([-1.0, -0.2, 0.1, 0.3, 0.7, 0.95, 1.0]),
)
def test_segments_are_planes_in_a_row_that_are_alike(tokens, alike):
    part = segment_of(tokens.features, tokens.positions, tokens.present, alike)
    for sample, present in enumerate(tokens.present):
        positions = tokens.positions[sample, present]
        wanted = segments(tokens.features[sample, present].double(), positions, alike)
        assert part[sample, present].tolist() == [wanted[plane] for plane in positions[:, 0].tolist()]


def shared_out(shares, sizes, room, leftover, least=0):
    """The least and floors first, never more than a part has; the rest one by one, round after round."""
    sure = [min(least, size) for size in sizes]
    short = sum(sure) > room
    sure = [0] * len(sizes) if short else sure
    wanted = [share * (room - sum(sure)) for share in shares]
    given = [
        0 if short else min(math.floor(want), size - base)
        for want, size, base in zip(wanted, sizes, sure, strict=True)
    ]
    right = [want - got if leftover == "remainder" else want for want, got in zip(wanted, given, strict=True)]
    given = [got + base for got, base in zip(given, sure, strict=True)]
    while sum(given) < room:
        for number in sorted(range(len(sizes)), key=lambda number: (-right[number], number)):
            if given[number] < sizes[number] and sum(given) < room:
                given[number] += 1
    return given


@settings(max_examples=150)
@given(
    token_sets(),
    st.integers(1, 6),
    st.sampled_from(["share", "remainder"]),
    st.sampled_from([0, 0, 1, 2]),
    st.integers(0, 2**20),
)
def test_quotas_use_all_the_room_and_never_more_than_there_is(tokens, chunks, leftover, least, seed):
    """Shares are whole 64ths, so that products are exact."""
    make = torch.Generator().manual_seed(seed)
    part = chunk_of(tokens.positions, tokens.present, chunks)
    weights = torch.randint(0, 8, (chunks,), generator=make).tolist()
    weights[0] += 64 - sum(weights)
    room = (tokens.counts * torch.rand(1, generator=make)).long()
    per_token = torch.tensor([*weights, *[0] * part.shape[-1]])[part] / 64
    quota = quotas(per_token, part, tokens.present, room, leftover=leftover, least=least)
    key = packed_key(torch.rand(part.shape, generator=make), tokens.present)
    best = best_of_parts(key, part, quota)
    for sample in range(len(part)):
        parts = members(part[sample], tokens.present[sample])
        sizes = [len(parts.get(number, ())) for number in range(chunks)]
        wanted = shared_out([weight / 64 for weight in weights], sizes, int(room[sample]), leftover, least)
        assert [int(quota[sample, parts[number][0]]) for number in parts] == [wanted[n] for n in parts]
        chosen = [
            token
            for number, inside in parts.items()
            for token in sorted(inside, key=lambda token: -int(key[sample, token]))[: wanted[number]]
        ]
        assert best[sample].nonzero().flatten().tolist() == sorted(chosen)


@settings(max_examples=60)
@given(token_sets(spoilt=False))
def test_means_and_ranks_within_planes(tokens):
    plane = plane_of(tokens.positions, tokens.present)
    values = torch.rand(plane.shape, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    mean, rank = (
        mean_of(values, plane, tokens.present),
        rank_within(packed_key(values, tokens.present), plane),
    )
    for sample in range(len(plane)):
        for inside in members(plane[sample], tokens.present[sample]).values():
            assert len({int(tokens.positions[sample, token, 0]) for token in inside}) == 1
            ordered = sorted(inside, key=lambda token: (-float(values[sample, token]), token))
            assert [int(rank[sample, token]) for token in ordered] == list(range(len(inside)))
            torch.testing.assert_close(
                mean[sample, inside], values[sample, inside].mean().expand(len(inside))
            )


@settings(max_examples=100)
@given(token_sets(), st.sampled_from([(0, 1), (0, -1), (1, 0), (-1, 0), (2, -1)]))
def test_cells_before_and_beside(tokens, step):
    before, known = cell_before(tokens.positions, tokens.present)
    beside, there = cell_beside(tokens.positions, tokens.present, *step)
    for sample in range(len(before)):
        cells = {
            tuple(tokens.positions[sample, token].tolist()): token
            for token in tokens.present[sample].nonzero().flatten().tolist()
        }
        for (plane, row, column), token in cells.items():
            earlier = [cells[p, r, c] for p, r, c in sorted(cells) if (r, c) == (row, column) and p < plane]
            assert (int(before[sample, token]) if known[sample, token] else None) == (earlier or [None])[-1]
            next_to = cells.get((plane, row + step[0], column + step[1]))
            assert (int(beside[sample, token]) if there[sample, token] else None) == next_to
    assert not (known & ~tokens.present).any()
    assert not (there & ~tokens.present).any()


@settings(max_examples=60)
@given(token_sets(), st.sampled_from([(0, 1), (0, -1), (1, 0), (-1, 0)]))
def test_beside_in_the_raster_runs_on_and_stops_at_the_ends(tokens, step):
    beside = raster_beside(tokens.positions, tokens.present, *step)
    plane = plane_of(tokens.positions, tokens.present)
    for sample in range(len(plane)):
        for inside in members(plane[sample], tokens.present[sample]).values():
            raster = sorted(inside, key=lambda token: tokens.positions[sample, token].tolist())
            width = 1 + max(int(tokens.positions[sample, token, 2]) for token in inside)
            for rank, token in enumerate(raster):
                further = min(max(rank + step[0] * width + step[1], 0), len(raster) - 1)
                assert int(beside[sample, token]) == raster[further]

"""Distances against torch's, and where they must not be off."""

import torch

from prunekit.kernels.distances import distances


def test_distances_are_euclidean():
    rows, columns = torch.randn(2, 5, 7), torch.randn(2, 9, 7)
    torch.testing.assert_close(distances(rows, columns), torch.cdist(rows, columns))
    torch.testing.assert_close(distances(rows.half(), columns), distances(rows.half().float(), columns))


def test_far_from_the_origin_nothing_is_lost():
    rows = torch.tensor([[[4096.0, 1.0], [4096.0, 1.5]]])
    assert distances(rows, rows).tolist() == [[[0, 0.5], [0.5, 0]]]


def test_copies_are_no_distance_apart():
    rows = torch.randn(1, 50, 300, generator=torch.Generator().manual_seed(0)) * 1e3
    assert (distances(rows, rows.clone()).diagonal(dim1=1, dim2=2) == 0).all()


def test_huge_and_tiny():
    rows = torch.tensor([[[3e38, 3e38], [-3e38, -3e38], [0.0, 0.0], [1e-30, 0.0]]])
    apart = distances(rows, rows)
    assert apart.isfinite().all()
    assert apart[0, 0, 1] == torch.finfo(torch.float32).max
    torch.testing.assert_close(apart[0, 2, 3], torch.tensor(1e-30))
    assert distances(rows[:, :0], rows).shape == (1, 0, 4)

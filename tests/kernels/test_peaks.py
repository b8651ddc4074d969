"""Peaks of density against the definition written out, one token after another."""

import math

import pytest
import torch

from prunekit.kernels.peaks import peak_worth


def written_out(points, k, noise):
    """Density times distance to the nearest denser token."""
    count, dim = points.shape
    apart = [
        [float((points[i] - points[j]).norm()) / math.sqrt(dim) for j in range(count)] for i in range(count)
    ]
    density = [
        math.exp(-sum(d * d for d in sorted(row)[:k]) / min(k, count)) + float(noise[i])
        for i, row in enumerate(apart)
    ]
    largest = max(map(max, apart))
    rank = [(density[i], -i) for i in range(count)]
    return [
        density[i] * min([apart[i][j] for j in range(count) if rank[j] > rank[i]], default=largest)
        for i in range(count)
    ]


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("scale", [0.0, 1e-2])
def test_worth_is_that_of_the_definition(k, scale):
    generator = torch.Generator().manual_seed(k)
    points = torch.randn(2, 14, 6, generator=generator)
    points[:, 7] = points[:, 3]
    eligible = torch.rand(2, 14, generator=generator) < 0.7
    points = points.masked_fill(~eligible[..., None], torch.nan)
    noise = scale * torch.rand(2, 14, generator=generator)
    found = peak_worth(points, eligible, torch.tensor([k, k]), noise)
    for sample in range(2):
        here = eligible[sample]
        wanted = torch.tensor(written_out(points[sample, here], k, noise[sample, here]))
        torch.testing.assert_close(found[sample, here], wanted)
        assert (found[sample, ~here] == -torch.inf).all()


def test_of_copies_only_the_first_is_a_peak():
    points = torch.tensor([[[0.0], [0.0], [0.1], [5.0], [5.0], [5.2]]])
    worth = peak_worth(points, torch.ones(1, 6, dtype=torch.bool), torch.tensor([2]))
    assert worth[0].topk(2).indices.tolist() == [0, 3]
    assert worth[0, 1] == worth[0, 4] == 0


def test_few_and_none():
    alone = peak_worth(torch.ones(1, 1, 3), torch.ones(1, 1, dtype=torch.bool), torch.tensor([2]))
    assert alone.tolist() == [[0.0]]
    assert peak_worth(torch.ones(1, 0, 3), torch.ones(1, 0, dtype=torch.bool), torch.tensor([2])).shape == (
        1,
        0,
    )
    nobody = peak_worth(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool), torch.tensor([2]))
    assert (nobody == -torch.inf).all()

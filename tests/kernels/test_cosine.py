"""Cosines survive what models really produce."""

import torch

from prunekit.kernels.cosine import cosine, unit


def test_unit_survives_the_ends_of_float32():
    awkward = [[1e38, 1e38], [1e-40, 0.0], [0.0, 0.0], [torch.inf, 1.0], [torch.nan, 1.0]]
    vectors = unit(torch.tensor(awkward))
    half = 0.5**0.5
    assert torch.allclose(vectors, torch.tensor([[half, half], [1, 0], [0, 0], [0, 0], [0, 0]]))


def test_cosines_of_half_precision_are_computed_in_float32():
    features = torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    vectors = unit(features)
    exact = torch.nn.functional.cosine_similarity(
        features.double()[0, :, None], features.double()[0, None], dim=-1
    )
    torch.testing.assert_close(cosine(vectors, vectors)[0].double(), exact, rtol=0, atol=1e-6)

"""The norm of features in float32 is that of float64, however large or small they are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prunekit as pk
from prunekit.measuring import Counting
from prunekit_plugins.importance.feature_norm import FeatureNorm

sizes = st.sampled_from([1e-45, 1e-30, 1e-19, 1.0, 1e18, 1e19, 1e37])


def scored(features, order):
    rows = torch.as_tensor(features)
    return FeatureNorm(order=order)(pk.TokenBatch.grid(rows[None], 1, len(rows)))[0]


@given(
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8),
    size=sizes,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    order=st.sampled_from([1, 2]),
)
def test_it_is_the_norm_in_float64(values, size, dtype, order):
    features = (torch.tensor([values]) * size).to(dtype)
    found = scored(features, order)
    assert found.dtype == torch.float32
    wanted = torch.linalg.vector_norm(features.double(), ord=order, dim=-1)
    torch.testing.assert_close(found.double(), wanted.float().double(), rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("order", [1, 2])
def test_what_is_not_finite(order):
    rows = [[math.inf, 1.0], [math.nan, 1.0], [-math.inf, math.nan], [3e38, 3e38], [0.0, -0.0]]
    found = scored(rows, order).tolist()
    assert found[0] == math.inf
    assert math.isnan(found[1])
    assert math.isnan(found[2])
    assert found[3] == math.inf
    assert found[4] == 0


def test_nothing_is_read():
    with Counting() as counted:
        scored(torch.rand(9, 4), 2)
    assert counted.syncs == 0

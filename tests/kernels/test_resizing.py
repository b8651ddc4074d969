"""Reading a map at a cell is resizing it as `F.interpolate` does, keeping its mean, and looking there."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.kernels.resizing import resized_at
from prunekit.measuring import Counting

sides = st.one_of(st.integers(1, 9), st.sampled_from([24, 37, 64]))


def interpolated(maps, rows, columns):
    """The maps resized in float64, with the mean they had."""
    grown = F.interpolate(maps[:, None].double(), (rows, columns), mode="bilinear", align_corners=False)[:, 0]
    return grown * (maps.double().mean((1, 2)) / grown.mean((1, 2)))[:, None, None]


def everywhere(planes, rows, columns):
    """Every cell of every plane as one sample: plane, cell and size."""
    plane, row, column = torch.cartesian_prod(*map(torch.arange, (planes, rows, columns))).reshape(-1, 3).T
    size = torch.tensor([rows, columns]).expand(1, len(plane), 2)
    return plane[None], torch.stack([row, column], -1)[None], size


def some_maps(planes, rows, columns, seed):
    return 0.01 + torch.rand(planes, rows, columns, generator=torch.Generator().manual_seed(seed)) ** 4


@settings(max_examples=150)
@given(
    planes=st.integers(1, 3),
    old=st.tuples(sides, sides),
    new=st.tuples(sides, sides),
    seed=st.integers(0, 99),
)
def test_every_cell_is_that_of_the_resized_map(planes, old, new, seed):
    maps = some_maps(planes, *old, seed)
    found = resized_at(maps, *everywhere(planes, *new)).reshape(planes, *new)
    wanted = maps.double() if old == new else interpolated(maps, *new)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=0)
    if old == new:
        assert torch.equal(found, maps)


@settings(max_examples=100)
@given(
    old=st.tuples(sides, sides),
    news=st.lists(st.tuples(sides, sides), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_both_engines_and_any_company_give_the_same_bits(old, news, seed):
    """Cells of planes of several sizes, shuffled into one sample, against each size alone."""
    maps = some_maps(2, *old, seed)
    alone = [everywhere(2, *new) for new in news]
    plane, cell, size = (torch.cat(parts, 1) for parts in zip(*alone, strict=True))
    order = torch.randperm(plane.shape[1], generator=torch.Generator().manual_seed(seed))
    wanted = torch.cat([resized_at(maps, *one) for one in alone], 1)[:, order]
    for engine in ("host", "device"):
        found = resized_at(maps, plane[:, order], cell[:, order], size[:, order], engine)
        assert torch.equal(found, wanted)


def test_a_map_of_mean_zero_is_not_scaled():
    found = resized_at(torch.tensor([[[1.0, -1.0]]]), *everywhere(1, 1, 4))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5, -0.5, -1.0]]))


@pytest.mark.parametrize("engine", ["host", "device"])
@pytest.mark.parametrize("batch, tokens", [(0, 3), (2, 0), (0, 0)])
def test_nobody_there(engine, batch, tokens):
    none = torch.zeros(batch, tokens, 2, dtype=torch.long)
    assert resized_at(torch.ones(1, 2, 2), none[..., 0], none, none, engine).shape == (batch, tokens)


def test_the_device_engine_reads_nothing():
    maps, where = some_maps(1, 24, 24, 0), everywhere(1, 18, 32)
    with Counting() as counted:
        resized_at(maps, *where, "device")
    assert counted.syncs == 0

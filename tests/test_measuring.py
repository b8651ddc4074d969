"""Counts are exact, and the same on every run."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from prunekit.measuring import Counting, median_ms

VALUES = torch.arange(6.0)
MASK = VALUES > 2
ONE = torch.tensor(2)
TIMES = torch.ones(6, dtype=torch.long)

READS = {
    "bool": lambda: bool(ONE),
    "if": lambda: 1 if ONE else 0,
    "int": lambda: int(ONE),
    "float": lambda: float(ONE),
    "complex": lambda: complex(ONE),
    "range": lambda: range(ONE),
    "item": ONE.item,
    "tolist": VALUES.tolist,
    "numpy": VALUES.numpy,
    "asarray": lambda: np.asarray(VALUES),
    "cpu": VALUES.cpu,
    "index of one": lambda: VALUES[ONE],
    "slice to one": lambda: VALUES[:ONE],
    "in": lambda: 3.0 in VALUES,
    "format": lambda: f"{ONE}",
    "mask": lambda: VALUES[MASK],
    "mask put": lambda: VALUES.clone().__setitem__(MASK, 0.0),
    "nonzero": MASK.nonzero,
    "argwhere": lambda: torch.argwhere(MASK),
    "where": lambda: torch.where(MASK),
    "masked_select": lambda: VALUES.masked_select(MASK),
    "unique": VALUES.unique,
    "unique_consecutive": lambda: VALUES.unique_consecutive(return_counts=True),
    "unique of rows": lambda: VALUES[:, None].unique(dim=0),
    "equal": lambda: torch.equal(VALUES, VALUES),
    "allclose": lambda: torch.allclose(VALUES, VALUES),
    "repeat_interleave": lambda: VALUES.repeat_interleave(TIMES),
    "bincount": TIMES.bincount,
    "fill with one": lambda: torch.full((2,), ONE),
    "copy elsewhere": lambda: VALUES.to("meta"),
}

FREE = {
    "arithmetic": lambda: (VALUES + ONE) @ VALUES,
    "masked_fill": lambda: VALUES.masked_fill(MASK, ONE),
    "where": lambda: torch.where(MASK, VALUES, ONE),
    "gather": lambda: VALUES.gather(0, TIMES),
    "index": lambda: VALUES[TIMES],
    "comparison": lambda: VALUES == ONE,
    "topk": lambda: VALUES.topk(3),
    "sort": lambda: VALUES.sort(stable=True),
    "shape": lambda: (len(VALUES), VALUES.numel(), VALUES.dtype, VALUES.device),
    "known repeats": lambda: VALUES.repeat_interleave(TIMES, output_size=6),
    "iteration": lambda: list(VALUES),
    "another type": lambda: VALUES.to(torch.float16),
    "the same device": lambda: VALUES.to(ONE.device),
    "scatter": lambda: torch.zeros(6).scatter_reduce(0, TIMES, VALUES, "amax"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
@pytest.mark.parametrize("times", [1, 3])
def test_a_read_counts_once(read, times: int):
    with Counting() as counted:
        for _ in range(times):
            read()
    assert counted.syncs == times


@pytest.mark.parametrize("call", FREE.values(), ids=FREE.keys())
def test_what_reads_nothing_counts_nothing(call):
    with Counting() as counted:
        call()
    assert counted.syncs == 0


def test_results_are_as_without_counting():
    plain = [read() for read in READS.values()]
    with Counting():
        counted = [read() for read in READS.values()]
    for one, other in zip(plain, counted, strict=True):
        assert type(one) is type(other)
        assert str(one) == str(other)


def test_operations_count_and_views_do_not():
    square = torch.ones(4, 4)
    with Counting() as counted:
        square.T.reshape(2, 8)[:, None].transpose(0, 1).unbind()  # the reshape must copy
        square + 1
        square.add_(1)
    assert counted.ops == 3


def test_what_is_fetched_is_the_hosts():
    with Counting() as counted:
        fetched = VALUES.cpu()
        assert (fetched * 2).flatten().sum().item() == 30
        assert fetched.numpy().sum() == 15
        fetched[fetched > 2].tolist()
    assert counted.syncs == 1
    assert counted.ops == 0


def test_a_fetched_value_is_a_copy_as_on_an_accelerator():
    values = VALUES.clone()
    with Counting():
        values.cpu().zero_()
    assert torch.equal(values, VALUES)


def test_peak_is_what_lives_at_once():
    values = torch.ones(1000)
    with Counting() as counted:
        doubled = values * 2
        del doubled
        values.view(10, 100).add_(1)
        kept = values + values.mean()  # 4000 and 4
        halves = [kept[:500] / 2, kept[500:] / 2]  # 2000 each, beside the 4000
    assert counted.peak_bytes == 4000 + 2 * 2000
    assert len(halves) == 2


def test_peak_is_independent_of_how_often():
    peaks = []
    for times in (1, 50):
        values = torch.ones(100, 10)
        with Counting() as counted:
            for _ in range(times):
                values = values * 1.5 + torch.tensor([1.0] * 10)
        peaks.append(counted.peak_bytes)
    assert peaks[0] == 2 * 4000 + 40
    assert peaks[1] <= peaks[0] + 4000


def test_memory_from_before_counts_nothing_when_it_goes():
    before = [torch.ones(1000) for _ in range(3)]
    with Counting() as counted:
        while before:
            total = before.pop().sum()
    assert counted.peak_bytes <= 8
    assert float(total) == 1000


def test_memory_that_outlives_the_block():
    with Counting() as counted:
        kept = torch.zeros(100) + 1
    peak = counted.peak_bytes
    del kept
    assert counted.peak_bytes == peak == 800


def test_counting_in_counting():
    with Counting() as outer:
        VALUES.sum().item()
        with Counting() as inner:
            VALUES.tolist()
            VALUES + 1
    assert (inner.ops, inner.syncs) == (1, 1)
    assert (outer.ops, outer.syncs) == (2, 2)


def test_an_error_leaves_nothing_behind():
    counted = Counting()
    with pytest.raises(IndexError), counted:
        VALUES[99]
    before = counted.ops, counted.syncs
    VALUES.sum().item()
    assert (counted.ops, counted.syncs) == before


def test_what_is_on_another_device_is_not_counted():
    elsewhere = VALUES.to("meta")
    with Counting() as counted:
        elsewhere + elsewhere
    with Counting("meta") as there:
        elsewhere + elsewhere
        VALUES.tolist()
    assert (counted.ops, counted.peak_bytes) == (0, 0)
    assert (there.ops, there.syncs) == (1, 0)


def test_the_first_rounds_are_left_out():
    made: list[str] = []

    def call(name: str, *seconds: float) -> Callable[[], None]:
        spans = iter(seconds)

        def sleep() -> None:
            made.append(name)
            time.sleep(next(spans))

        return sleep

    slow, quick = median_ms(
        call("slow", 0, 0, 0.02, 0.02, 0.3), call("quick", 0.3, 0.3, 0, 0, 0.3), runs=3, warm_up=2
    )
    assert 20 <= slow < 200
    assert 0 <= quick < 20
    assert made == ["slow", "quick"] * 5


def test_patience_ends():
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.01)

    assert median_ms(call, patience=0)[0] >= 10
    assert len(calls) == 1
    median_ms(call, patience=0.05, runs=1000)
    assert len(calls) < 10


@pytest.mark.gpu
def test_on_a_gpu():
    values = torch.ones(1000, device="cuda")
    with Counting("cuda") as counted:
        total: Tensor = (values * 2).sum()
        assert total.cpu().tolist() == 2000
        assert int(values.nonzero().shape[0]) == 1000
        values.new_ones(1000).to("cpu")
    assert counted.syncs == 3
    assert counted.peak_bytes >= 4000
    assert median_ms(lambda: values @ values, device="cuda", runs=3)[0] > 0

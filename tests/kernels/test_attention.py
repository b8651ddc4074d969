"""Rows of attention are the rows of the whole softmax map, and their mean never holds that map."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit.kernels import attention as kernel
from prunekit.kernels.attention import Attending, attention_rows, mean_attention, received_attention
from prunekit.measuring import Counting

MASKS = ["causal", "padding", "bool", "additive", "bool a head", "additive of one row"]


def whole_map(attending):
    """The eager way in float64: keys repeated, every query against every key, one mask over all of it."""
    queries, keys = attending.query.shape[2], attending.key.shape[2]
    key = attending.key.double().repeat_interleave(attending.query.shape[1] // attending.key.shape[1], 1)
    products = attending.query.double() @ key.mT * attending.scaling
    if attending.softcap is not None:
        products = torch.tanh(products / attending.softcap) * attending.softcap
    mask = attending.mask
    if mask is not None and mask.ndim == 4:
        hidden = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask
        return (products + hidden).softmax(-1)
    for query in range(queries):
        for column in range(keys):
            back = query + keys - queries - column
            if (attending.causal and back < 0) or back >= (attending.window or keys):
                products[:, :, query, column] = -torch.inf
    if mask is not None:
        products = products.masked_fill(mask[:, None, None, -keys:] == 0, -torch.inf)
    return products.softmax(-1)


@st.composite
def attendings(draw):
    """What a module of any family might be about to compute, strides as transformers leave them."""
    batch, kv_heads, group = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 2)),
        draw(st.sampled_from([1, 2, 4])),
    )
    queries, past, dim = draw(st.integers(1, 9)), draw(st.integers(0, 4)), 8
    keys, seed = queries + past, draw(st.integers(0, 2**31 - 1))
    random = torch.Generator().manual_seed(seed)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    query = torch.randn(batch, queries, kv_heads * group, dim, generator=random).to(dtype).transpose(1, 2)
    key = torch.randn(batch, keys, kv_heads, dim, generator=random).to(dtype).transpose(1, 2)
    kind = draw(st.sampled_from(MASKS))
    mask = None
    if kind == "padding":
        mask = (torch.arange(keys + 3) >= torch.randint(3, keys + 3, (batch, 1), generator=random)).long()
    elif kind != "causal":
        rows = 1 if kind == "additive of one row" else batch
        heads = kv_heads * group if kind == "bool a head" else 1
        seen = torch.rand(rows, heads, queries, keys, generator=random) < 0.7
        seen[..., 0] = True
        mask = seen if "bool" in kind else torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)
    softcap, window = draw(st.sampled_from([None, 2.0])), draw(st.sampled_from([None, 1, 3]))
    return Attending(query, key, mask, dim**-0.5, softcap, window, draw(st.booleans()))


def some_queries(attending, count, seed):
    """Wanted queries in any order, some of them twice, some not counted."""
    random = torch.Generator().manual_seed(seed)
    shape = len(attending.query), count
    wanted = torch.randint(0, attending.query.shape[2], shape, generator=random)
    return wanted, torch.rand(shape, generator=random) < 0.7


def sample_of(attending, index):
    one = slice(index, index + 1)
    mask = attending.mask
    alone = mask if mask is None or len(mask) == 1 else mask[one]
    return replace(attending, query=attending.query[one], key=attending.key[one], mask=alone)


@settings(max_examples=300)
@given(attending=attendings(), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_rows_are_those_of_the_whole_map(attending, count, seed):
    wanted, _ = some_queries(attending, count, seed)
    found = attention_rows(attending, wanted)
    assert found.dtype == torch.float32
    expected = torch.stack([rows[:, own] for rows, own in zip(whole_map(attending), wanted, strict=True)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@settings(max_examples=200)
@given(attending=attendings(), count=st.integers(0, 9), rows=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_mean_is_that_of_the_rows_that_count(attending, count, rows, seed):
    wanted, counted = some_queries(attending, count, seed)
    everything = whole_map(attending)
    found = mean_attention(attending, wanted, counted, rows)
    for sample, (own, real) in enumerate(zip(wanted, counted, strict=True)):
        picked = everything[sample][:, own[real]]
        expected = picked.mean(1) if len(picked[0]) else torch.zeros_like(everything[sample][:, 0])
        torch.testing.assert_close(found[sample].double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@settings(max_examples=100)
@given(attending=attendings(), count=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_batch_is_its_samples(attending, count, seed):
    wanted, counted = some_queries(attending, count, seed)
    together = mean_attention(attending, wanted, counted)
    for sample in range(len(wanted)):
        own = wanted[sample : sample + 1], counted[sample : sample + 1]
        alone = mean_attention(sample_of(attending, sample), *own)
        torch.testing.assert_close(together[sample : sample + 1], alone, equal_nan=True)


@settings(max_examples=100)
@given(attending=attendings(), count=st.integers(1, 9), rows=st.integers(1, 9), keys=st.integers(1, 9))
def test_blocks_of_any_size_give_the_same(attending, count, rows, keys):
    wanted, counted = some_queries(attending, count, rows)
    expected = mean_attention(attending, wanted, counted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "KEYS", keys)
        found = mean_attention(attending, wanted, counted, rows)
    torch.testing.assert_close(found, expected, equal_nan=True)


@settings(max_examples=200)
@given(attending=attendings(), rows=st.integers(1, 4))
def test_what_a_key_receives_is_the_mean_over_those_that_see_it(attending, rows):
    """One query after another; one that does not see its own key is padding."""
    found = received_attention(attending, rows)
    everything = whole_map(attending)
    (batch, _, queries, _), keys = attending.query.shape, attending.key.shape[2]
    for sample in range(batch):
        real = [
            query
            for query in range(queries)
            if (everything[sample, :, query, query + keys - queries] > 0).any()
        ]
        for column in range(keys):
            readers = [query for query in real if (everything[sample, :, query, column] > 0).any()]
            expected = everything[sample, :, readers, column].sum(-1) / max(len(readers), 1)
            torch.testing.assert_close(found[sample, :, column].double(), expected, rtol=1e-5, atol=1e-6)


@given(attending=attendings(), cut=st.integers(0, 9))
def test_packed_sequences_are_seen_one_by_one(attending, cut):
    assert list(attending.sequences()) == [attending]
    length = attending.query.shape[2]
    key, cut = attending.key[:, :, :length], min(cut, length)
    packed = replace(attending, key=key, mask=None, starts=torch.tensor([0, cut, length]))
    first, second = packed.sequences()
    assert torch.equal(torch.cat([first.query, second.query], 2), packed.query)
    assert torch.equal(torch.cat([first.key, second.key], 2), packed.key)
    assert first.key.shape[2] == first.query.shape[2] == cut
    assert first.starts is None
    assert (first.scaling, first.causal) == (packed.scaling, packed.causal)


def test_queries_that_see_nothing_do_not_reach_the_mean():
    """The padding of a prompt: its own rows are NaN, and it is never counted."""
    query = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    attending = Attending(query, query, torch.tensor([[0, 0, 1, 1]]), 1.0)
    wanted = torch.arange(4)[None]
    assert attention_rows(attending, wanted)[:, :, :2].isnan().all()
    found = mean_attention(attending, wanted, torch.tensor([[False, False, True, True]]))
    torch.testing.assert_close(found, attention_rows(attending, wanted[:, 2:]).mean(2))


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that an operation gave memory to."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not func.is_view:
            self.elements = max(self.elements, found.numel())
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_map_of_all_queries_is_held(dtype):
    """Keys of half precision are widened some at a time, those of float32 not copied at all."""
    batch, heads, kv_heads, length, dim, rows = 2, 8, 2, 4096, 8, 16
    query = torch.randn(batch, length, heads, dim).to(dtype).transpose(1, 2)
    key = torch.randn(batch, length, kv_heads, dim).to(dtype).transpose(1, 2)
    wanted = torch.arange(length - 512, length).expand(batch, -1)
    with Largest() as largest, Counting() as counted:
        mean_attention(Attending(query, key, None, 1.0), wanted, torch.ones_like(wanted).bool(), rows)
    block = batch * heads * rows * length
    assert largest.elements == block
    assert counted.peak_bytes < 4 * 3.5 * block
    assert counted.syncs == 0
    with Largest() as largest:
        received_attention(Attending(query[:, :, -512:], key, None, 1.0, causal=False), rows)
    assert largest.elements == block
    with Largest() as largest:
        last = wanted[:, -1:]
        attention_rows(Attending(query, key, None, 1.0), last)
    assert largest.elements <= batch * max(heads * length, kv_heads * kernel.KEYS * dim)

"""Packed keys rank like Python's sort: by score, ties by lowest index, NaN last."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunekit.kernels.ranking import NEVER, ahead, best, descending, packed_key

awkward = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 3.4e38]),
)


def ranked(scores, eligible):
    """The eligible tokens from the best to the worst."""
    tokens = [token for token, may in enumerate(eligible) if may]
    return sorted(tokens, key=lambda token: (math.isnan(scores[token]), _falling(scores[token]), token))


def _falling(score):
    return 0.0 if math.isnan(score) else -score


@given(st.lists(st.tuples(awkward, st.booleans()), max_size=20), st.integers(0, 25))
def test_best_is_the_head_of_a_sorted_list(tokens, room):
    scores, eligible = [score for score, _ in tokens], [may for _, may in tokens]
    order = ranked(scores, eligible)
    values = torch.tensor(scores).reshape(1, -1)
    mask = torch.tensor(eligible, dtype=torch.bool).reshape(1, -1)
    key = packed_key(values, mask)
    assert descending(key)[0].tolist()[: len(order)] == order
    taken = best(values, mask, torch.tensor([room]))[0].nonzero().flatten().tolist()
    assert taken == sorted(order[:room])


@given(st.lists(awkward, min_size=1, max_size=20))
def test_no_two_tokens_share_a_key(scores):
    key = packed_key(torch.tensor([scores]), torch.ones(1, len(scores), dtype=torch.bool))[0].tolist()
    assert len(set(key)) == len(key)
    assert NEVER not in key


@given(st.lists(st.tuples(awkward, st.booleans(), st.booleans()), max_size=20))
def test_those_ahead_keep_their_order_and_so_do_the_others(tokens):
    scores, eligible, first = ([token[which] for token in tokens] for which in range(3))
    values = torch.tensor(scores).reshape(1, -1)
    masks = [torch.tensor(mask, dtype=torch.bool).reshape(1, -1) for mask in (eligible, first)]
    order = ranked(scores, eligible)
    wanted = sorted(order, key=lambda token: not first[token])
    key = ahead(packed_key(values, masks[0]), masks[1])
    assert descending(key)[0].tolist()[: len(order)] == wanted
    assert (key[0] == NEVER).tolist() == [not may for may in eligible]


def test_a_thousand_ties_fall_to_the_lowest_index():
    zeros = torch.zeros(1, 1000)
    taken = best(zeros, torch.ones_like(zeros, dtype=torch.bool), torch.tensor([5]))
    assert taken[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_more_tokens_than_a_key_holds_are_refused():
    huge = torch.zeros(1, 1).expand(1, 1 << 24)
    with pytest.raises(ValueError, match="packed key"):
        packed_key(huge, huge.bool())

"""A budget is a count or a share, and which of the two is never guessed."""

from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prunekit as pk
from prunekit.budget import parse_budget, room_for, share_of

WRONG = [0, -1, 1.5, 0.0, -0.1, float("nan"), float("inf"), "ten", "64", True, False, None, [64], {"n": 1}]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=4), st.integers(1, 6000))
def test_a_count_is_the_count_or_all_there_are(counts, budget):
    assert room_for(torch.tensor(counts), budget).tolist() == [min(count, budget) for count in counts]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=4), st.floats(0, 1, exclude_min=True))
def test_a_share_is_rounded_down_and_keeps_at_least_one(counts, share):
    wanted = [min(count, max(1, floor(count * share))) for count in counts]
    assert room_for(torch.tensor(counts), share).tolist() == wanted


@given(st.lists(st.integers(0, 2**40), max_size=4), st.floats(0, 1))
def test_the_share_of_a_count_is_that_of_python(counts, share):
    held = torch.tensor(counts, dtype=torch.long)
    assert share_of(held, share).tolist() == [int(count * share) for count in counts]


def test_one_keeps_one_and_one_point_zero_keeps_all():
    assert room_for(torch.tensor([576]), 1).tolist() == [1]
    assert room_for(torch.tensor([576]), 1.0).tolist() == [576]


@pytest.mark.parametrize("budget", WRONG)
def test_wrong_budgets_are_refused(budget):
    with pytest.raises(pk.ConfigError, match=r"budget: .*a count of tokens \(an int: 64\) or a share"):
        pk.load("fastv").swap(budget=budget)


@pytest.mark.parametrize(
    "text, budget", [("64", 64), ("1", 1), ("1.0", 1.0), ("0.1", 0.1), (".5", 0.5), ("1e-2", 0.01)]
)
def test_budgets_as_text(text, budget):
    parsed = parse_budget(text)
    assert parsed == budget
    assert type(parsed) is type(budget)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "ten", "", "nan", "0.0", "true", "10%", "1e9", "inf"])
def test_wrong_budgets_as_text_are_refused(text):
    with pytest.raises(pk.ConfigError, match="a budget is"):
        parse_budget(text)


@given(st.text(max_size=8))
def test_any_text_is_a_budget_or_refused(text):
    try:
        parsed = parse_budget(text)
    except pk.ConfigError:
        return
    assert (isinstance(parsed, int) and parsed >= 1) or 0 < parsed <= 1

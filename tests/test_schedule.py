"""A schedule meets its target as nearly as whole tokens allow, and its target is what it comes to."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunekit import ConfigError
from prunekit.schedule import (
    Schedule,
    average_tokens,
    saving,
    schedule_for_average,
    schedule_for_saving,
)

LLAVA = {"visual": 576, "depth": 32}


def quadratic(visual: Sequence[int]) -> float:
    """Like a decoder's: linear and square terms, with 35 tokens of text."""
    return sum(200.0 * (own + 35) + (own + 35) ** 2 for own in visual)


@st.composite
def problems(draw):
    depth = draw(st.integers(1, 12))
    layers = sorted(draw(st.sets(st.integers(0, depth - 1), min_size=1, max_size=4)))
    ratios = st.lists(st.floats(0.01, 1), min_size=len(layers), max_size=len(layers))
    return {
        "layers": layers,
        "visual": draw(st.integers(1, 300)),
        "depth": depth,
        "ratios": draw(st.none() | ratios.map(lambda each: sorted(each, reverse=True))),
    }


def spans(problem) -> list[int]:
    """How many layers run on each count."""
    return [end - start for start, end in pairwise([*problem["layers"], problem["depth"]])]


def fewest(problem) -> Schedule:
    return Schedule(tuple(problem["layers"]), (1,) * len(problem["layers"]))


def target(problem, share: float) -> float:
    """An average in reach."""
    low, high = average_tokens(fewest(problem), problem["visual"], problem["depth"]), problem["visual"]
    return min(high, low + share * (high - low))


def cost_of_a_token(problem, count: int) -> float:
    """What one more than `count` costs in the longest stage, as a share of the whole."""
    more = quadratic([count + 1]) - quadratic([count])
    return max(spans(problem)) * more / quadratic([problem["visual"]] * problem["depth"])


SHARES = st.floats(0, 1)


@given(problems(), SHARES)
def test_an_average_is_met_within_half_a_token_of_the_longest_stage(problem, share):
    wanted = target(problem, share)
    schedule = schedule_for_average(wanted, **problem)
    got = average_tokens(schedule, problem["visual"], problem["depth"])
    assert abs(got - wanted) * problem["depth"] <= max(spans(problem)) / 2 + 1e-6
    assert schedule.layers == tuple(problem["layers"])
    assert all(1 <= kept <= problem["visual"] for kept in schedule.kept)
    assert list(schedule.kept) == sorted(schedule.kept, reverse=True)


@given(problems(), SHARES)
def test_a_saving_is_met_within_half_a_token_of_the_longest_stage(problem, share):
    """Off by half of what one more token costs at most."""
    size = problem["visual"], problem["depth"]
    wanted = share * saving(fewest(problem), *size, quadratic)
    schedule = schedule_for_saving(wanted, quadratic, **problem)
    step = max(cost_of_a_token(problem, count) for count in schedule.kept)
    assert abs(saving(schedule, *size, quadratic) - wanted) <= step / 2 + 1e-9


@given(problems(), SHARES)
def test_what_a_schedule_saves_leads_back_to_it(problem, share):
    schedule = schedule_for_average(target(problem, share), **problem)
    saved = saving(schedule, problem["visual"], problem["depth"], quadratic)
    assert schedule_for_saving(saved, quadratic, **problem) == schedule


@given(problems(), SHARES, SHARES)
def test_a_higher_average_never_means_fewer_tokens_anywhere(problem, share, other):
    less, more = sorted((share, other))
    few = schedule_for_average(target(problem, less), **problem).kept
    many = schedule_for_average(target(problem, more), **problem).kept
    assert all(a <= b for a, b in zip(few, many, strict=True))


@given(problems(), SHARES, SHARES)
def test_a_higher_saving_never_means_more_tokens_anywhere(problem, share, other):
    most = saving(fewest(problem), problem["visual"], problem["depth"], quadratic)
    less, more = sorted((share * most, other * most))
    many = schedule_for_saving(less, quadratic, **problem).kept
    few = schedule_for_saving(more, quadratic, **problem).kept
    assert all(a <= b for a, b in zip(few, many, strict=True))


@given(problems(), SHARES)
def test_counts_follow_their_form(problem, share):
    """One number gives every count, if each may be a token off: a share of what reaches it, or a scale."""
    kept = schedule_for_average(target(problem, share), **problem).kept
    visual, ratios = problem["visual"], problem["ratios"]
    least, most = 0.0, float("inf")
    for stage, count in enumerate(kept):
        low, high = count - 1 if count > 1 else 0, count + 1 if count < visual else float("inf")
        if ratios is None:
            low, high = ((bound / visual) ** (1 / (stage + 1)) for bound in (low, high))
        else:
            low, high = (bound / ratios[stage] for bound in (low, high))
        least, most = max(least, low), min(most, high)
    assert least <= most * (1 + 1e-9)


@given(problems(), st.data())
def test_tokens_are_counted_layer_by_layer(problem, data):
    count = len(problem["layers"])
    kept = sorted(data.draw(st.lists(st.integers(0, 400), min_size=count, max_size=count)), reverse=True)
    schedule = Schedule(tuple(problem["layers"]), tuple(kept))
    visual, expected = problem["visual"], []
    for layer in range(problem["depth"]):
        if layer in problem["layers"]:
            visual = min(visual, kept[problem["layers"].index(layer)])
        expected.append(visual)
    assert list(schedule.tokens(problem["visual"], problem["depth"])) == expected
    assert average_tokens(schedule, problem["visual"], problem["depth"]) == sum(expected) / len(expected)


def test_pyramiddrop_halves():
    """Layers 8, 16, 24 of LLaVA-1.5 keep 50, 25, 12.5 %: 270 tokens on average."""
    halves = Schedule((8, 16, 24), (288, 144, 72))
    assert average_tokens(halves, **LLAVA) == 270
    assert schedule_for_average(270, layers=(8, 16, 24), **LLAVA) == halves
    halved = saving(halves, **LLAVA, cost=quadratic)
    assert schedule_for_saving(halved, quadratic, layers=(8, 16, 24), **LLAVA) == halves


@pytest.mark.parametrize(
    ("named", "kept", "average"),
    [
        (192, (300, 200, 110), 188.2),
        (128, (303, 110, 36), 123.9),
        (96, (238, 48, 26), 93.1),
        (64, (66, 30, 17), 61.7),
    ],
)
def test_sparsevlm_names_its_averages_with_what_it_recycles(named, kept, average):
    """Of those dropped, the best 30 % and one more are merged into a tenth as many, and one more."""
    schedule = Schedule((2, 6, 15), kept)
    assert average_tokens(schedule, **LLAVA) == pytest.approx(average, abs=0.05)
    dropped = [before - after for before, after in pairwise((576, *kept))]
    merged = [(int(0.3 * count) + 1) // 10 + 1 for count in dropped]
    longer = Schedule((2, 6, 15), tuple(map(sum, zip(kept, merged, strict=True))))
    assert average_tokens(longer, **LLAVA) == pytest.approx(named, abs=1)


@pytest.mark.parametrize(
    ("named", "kept"), [(192, (300, 200, 118)), (128, (238, 108, 60)), (64, (66, 34, 20))]
)
def test_sparsevlm_without_recycling_names_its_averages(named, kept):
    schedule = Schedule((2, 6, 15), kept)
    assert average_tokens(schedule, **LLAVA) == pytest.approx(named, abs=0.5)
    exactly = average_tokens(schedule, **LLAVA)
    assert schedule_for_average(exactly, layers=(2, 6, 15), ratios=kept, **LLAVA) == schedule


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ((), ()),
        ((2, 2), (5, 5)),
        ((3, 2), (5, 5)),
        ((-1,), (5,)),
        ((2,), (5, 4)),
        ((2, 3), (4, 5)),
        ((2,), (-1,)),
    ],
)
def test_schedules_out_of_order_are_refused(layers, kept):
    with pytest.raises(ConfigError):
        Schedule(layers, kept)


def test_what_is_in_reach_is_said():
    with pytest.raises(
        ConfigError, match=r"layers 8, 16, 24 of 32 with 576 tokens has 100 .* 144.8 to 576 are"
    ):
        schedule_for_average(100, layers=(8, 16, 24), **LLAVA)
    with pytest.raises(ConfigError, match=r"saves 99.00% of the cost: 0.00% to 8\d.\d\d% are possible"):
        schedule_for_saving(0.99, quadratic, layers=(4,), **LLAVA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": (3, 2)},
        {"layers": (2, 32)},
        {"layers": (-1, 2)},
        {"visual": 0},
        {"ratios": (1.0,)},
        {"ratios": (1.0, 2.0)},
        {"ratios": (1.0, 0.0)},
        {"ratios": (float("nan"), 1.0)},
        {"ratios": (float("inf"), 1.0)},
    ],
)
def test_wrong_questions_are_refused(wrong):
    with pytest.raises(ConfigError):
        schedule_for_average(300, **{"layers": (2, 6), **LLAVA, **wrong})

"""Coverage, lazily or not, is the loop that computes every gain anew."""

import pytest
import torch
from greedily import DEGENERATE, ENGINES, asked, best_first, cases, reads, without_kept
from hypothesis import given, settings

from prunekit.kernels.coverage import coverage
from prunekit.testing import choices


def loop(case, weight):
    """Everyone counts, whether kept or not."""
    alike, kept, free, room = case
    everyone, free, taken = [*kept, *free], list(free), []
    covered = {i: max([0, *(alike[i][k] for k in kept)]) for i in everyone}
    for _ in range(room):
        gain = torch.full((len(alike),), torch.nan)
        for token in free:
            gain[token] = weight[token] * sum(max(0, alike[i][token] - covered[i]) for i in everyone)
        taken.append(min(free, key=best_first(gain)))
        free.remove(taken[-1])
        covered = {i: max(covered[i], alike[i][taken[-1]]) for i in everyone}
    return sorted(taken)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150)
@given(choices())
def test_coverage_is_the_loop(engine, choice):
    """On features whose cosines are exact, so that sums are exact in any order, and ties are ties."""
    weight = choice.scores.clamp(0, 1)
    added = asked(coverage, choice, engine, weight=weight)
    for sample, case in enumerate(cases(choice)):
        assert added[sample] == loop(case, weight[sample])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("features", DEGENERATE.values(), ids=DEGENERATE)
def test_exactly_as_many_as_there_is_room_for(features, engine):
    for room in (1, 7, 40):
        assert len(without_kept(features, engine, coverage, room, weight=torch.ones(1, 40))) == room


def test_the_lazy_form_takes_what_the_plain_one_takes():
    make = torch.Generator().manual_seed(0)
    features = torch.randn(1, 300, 24, generator=make)[:, torch.randint(0, 60, (300,), generator=make)]
    features = features + 0.3 * torch.randn(1, 300, 24, generator=make)
    weight = torch.rand(1, 300, generator=make)
    for room in (1, 30, 150):
        lazy, plain = (without_kept(features, engine, coverage, room, weight=weight) for engine in ENGINES)
        assert lazy == plain


def test_the_device_form_reads_nothing():
    assert reads(coverage, weight=torch.rand(2, 30)) == 0
